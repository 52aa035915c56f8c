"""The report as a page and in a terminal: nothing cut off, nothing fetched, a sentence where there is nothing."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.report_figures import FEWEST, MOST_SERIES, figures
from services.cli.report_markup import Cell, table, time_ticks
from services.cli.report_page import page
from services.cli.report_plots import HEIGHT, SERIES, WIDTH, Plot, Told, bars, ranges, round_numbers
from services.cli.report_shadows import shadow_section
from services.cli.report_shown import report_table
from services.cli.report_style import DARK, LIGHT
from tests.unit.test_cli_monitoring_shown import at, finding, flat, health, part, shown

VOID = {"meta", "link", "line", "circle", "rect", "polyline", "br"}
START = 1_800_000_000.0


def quantity(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "unit": "1", "limit": None, "low": low, "high": high}


def step(number: int, **changes: Any) -> dict[str, Any]:
    known = {"decisions": 600, "outcomes": 100, "quality": 0.9, "latency_p95_ms": 5.0, "seconds": 300.0}
    return {"at": START + 300 * number} | known | changes


def variant(arm: str = "model", answered: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "arm": arm,
        "variant": answered or arm,
        "level": "good",
        "decisions": 1200,
        "outcomes": 200,
        "measures": {"accuracy": quantity(0.9, 0.85, 0.94), "log_loss": quantity(0.3)},
        "estimate": {"valid": False, "reason": "500 are needed", "measures": {}, "decisions": 0},
        "calibration": [{"predicted": 0.2, "observed": 0.25, "count": 50}],
        "steps": [step(0), step(2)],
    } | changes


def spread(*counts: int) -> dict[str, Any]:
    size = 1 / len(counts)
    bins = [{"lower": n * size, "upper": (n + 1) * size, "count": count} for n, count in enumerate(counts)]
    ranks = ("0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99")
    return {"count": sum(counts), "bins": bins, "quantiles": {rank: float(rank) * 10 for rank in ranks}}


def shape(arm: str = "model", answered: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "arm": arm,
        "variant": answered or arm,
        "decisions": 1200,
        "values": spread(10, 20, 30),
        "confidences": spread(0, 30, 30),
        "latencies_ms": spread(60),
        "fallback_reasons": {"timeout": 3} if answered else {},
    } | changes


def report(**changes: Any) -> dict[str, Any]:
    return {
        "family": "toy",
        "arm": "",
        "tenant": "",
        "window": "1h",
        "window_seconds": 3600,
        "since": at(-3600),
        "until": at(0),
        "main_measure": "Accuracy",
        "health": health(part("database"), part("model", "toy", "degraded", "no router can reach <model>")),
        "variants": [variant(), variant("rules")],
        "shadows": [],
        "distributions": [shape(), shape("rules")],
        "findings": [finding(), finding(verdict="stable", feature="hour"), finding(verdict="not_enough_data")],
    } | changes


NOTHING: dict[str, Any] = {
    "variants": [],
    "shadows": [],
    "distributions": [],
    "findings": [],
    "health": health(part("predictions", "toy", "healthy", "no traffic seen yet", decisions=0), state="healthy"),
}


class Page(HTMLParser):
    """What a browser would make of a page; complains of what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += f" {data}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]


@pytest.mark.parametrize("changes", [{}, NOTHING], ids=["full", "empty"])
def test_a_page_is_well_formed_and_fetches_nothing(changes: dict[str, Any]) -> None:
    """Every tag is closed, ids are unique, no address of anything stands in it, and each plot has name and words."""
    text = page(report(**changes))
    found = Page(text)
    identifiers = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    assert not re.search(r"https?:|url\(|@import|<script|src=", text)
    assert len(found.all("h1")) == len(found.all("main")) == len(found.all("title")) - len(found.all("svg")) == 1
    assert found.all("html")[0]["lang"] == "en"
    for picture in found.all("svg"):
        named = str(picture["aria-labelledby"]).split()
        assert picture["role"] == "img"
        assert set(named) <= set(identifiers)
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_a_page_says_what_was_found() -> None:
    """Numbers with their intervals, reasons, and drift; texts of others are escaped."""
    text = page(report())
    words = " ".join(Page(text).words.split())
    for said in (
        "0.900 0.850–0.940",
        "no router can reach <model>",
        "1 of 2 tests with a verdict found any",
        "What drifts",
        "no estimate: 500 are needed",
    ):
        assert said in words
    assert "&lt;model&gt;" in text
    guess = {"valid": True, "reason": "", "measures": {"f1": quantity(0.8, 0.7, 0.9)}, "decisions": 1000}
    guessed = Page(page(report(variants=[variant(estimate=guess)]))).words
    assert "model: 1,000 decisions are expected to reach F1 0.800 (0.700–0.900)" in guessed
    assert "arm rules only" in page(report(arm="rules"))


def test_a_page_of_nothing_says_why_everywhere() -> None:
    """No empty table, no empty plot: a sentence for each section, and what would be drawn."""
    words = " ".join(Page(page(report(**NOTHING))).words.split())
    for said in ("No decision was recorded in this time", "No test has run yet", "no traffic seen yet"):
        assert said in words
    assert "Not enough to draw yet: Decisions over time, Accuracy over time, Calibration" in words
    assert "<table" not in page(report(**NOTHING))
    unchecked = health(state="unspecified", checked_at="", next_check="")
    assert "The first check cycle has not ended yet" in page(report(**(NOTHING | {"health": unchecked})))


def test_tests_without_a_verdict_are_no_good_news() -> None:
    """Neither page nor terminal says that nothing drifts while no test can tell."""
    waiting = report(findings=[finding(verdict="not_enough_data")])
    words = " ".join(Page(page(waiting)).words.split())
    assert "No verdict on drift yet" in words
    assert "Drift no verdict more decisions are needed" in words
    assert "No test found drift" not in words + flat(shown(report_table(waiting)))
    stable = " ".join(Page(page(report(findings=[finding(verdict="stable")]))).words.split())
    assert "No test found drift" in stable
    assert "0 of 1 tests with a verdict found any" in stable


def test_without_outcomes_the_table_says_that_nobody_knows() -> None:
    """And nothing about quality is drawn."""
    silent = [variant(measures={}, outcomes=0, calibration=[], steps=[step(0, quality=None), step(1, quality=None)])]
    words = Page(page(report(variants=silent))).words
    assert "nobody knows yet how good the answers were" in words
    assert "Not enough to draw yet: Accuracy over time, Calibration. A shorter time" in " ".join(words.split())


def test_an_arm_has_its_colour_everywhere_and_small_ones_hide_nothing() -> None:
    """A handful of fallbacks is no line; of many arms the busiest are drawn, also where another plot lacks one."""
    variants = [variant(), variant("model", "rules", decisions=FEWEST - 1, outcomes=5), variant("rules", outcomes=200)]
    shapes = [shape(), shape("model", "rules", decisions=FEWEST - 1), shape("rules")]
    drawn, _ = figures(report(variants=variants, distributions=shapes))
    for figure in drawn:
        for label, place in (("model", 0), ("rules", 1)):
            for style in re.findall(rf'<li class="d0" style="([^"]*)">{label}</li>', figure):
                assert style == f"--c:var(--s{place})"
    assert "model, answered by rules" not in "".join(re.findall(r'<ul class="key">.*?</ul>', "".join(drawn)))
    many = [variant(f"arm{n}", decisions=1000 + n) for n in range(MOST_SERIES + 3)]
    (traffic, *_), _ = figures(report(variants=many, distributions=[]))
    key = re.search(r'<ul class="key">(.*?)</ul>', traffic)
    assert key is not None
    assert key[1].count("<li") == MOST_SERIES
    assert "arm0<" not in key[1]
    assert f'class="d{1}"' in key[1], f"the {SERIES + 1}th line is told apart by dashes"


def test_a_time_without_decisions_is_a_gap_and_not_a_line() -> None:
    """Between two busy steps nobody decided anything: the traffic was nothing, the accuracy is not known."""
    drawn, _ = figures(report(variants=[variant(steps=[step(0), step(1), step(3), step(4)])]))
    traffic, quality = drawn[0], drawn[1]
    assert len(re.findall(r"<circle", traffic)) == 5
    assert len(re.findall(r"<polyline", quality)) == 2


@given(st.integers(0, 2_000_000_000), st.integers(60, 400 * 86_400))
def test_ticks_of_time_are_few_round_and_inside(first: int, span: int) -> None:
    """Any span has at least one, at most six, each with its label."""
    ticks, days = time_ticks(first, first + span)
    assert 1 <= len(ticks) <= 6
    assert all(first <= moment <= first + span for moment, _ in ticks)
    assert datetime.fromtimestamp(first, UTC).strftime("%d %b") in days


@given(st.floats(-1e6, 1e6), st.floats(1e-2, 1e6))
def test_round_numbers_lie_in_their_span(low: float, span: float) -> None:
    """At least two and not too many, so that an axis always has a scale."""
    found = round_numbers(low, low + span)
    assert 2 <= len(found) <= 8
    assert all(low - span * 1e-6 <= one <= low + span * 1.000001 for one in found)


NUMBERS = st.floats(0, 1e6) | st.sampled_from([5e-324, 1e-12, 1e300])


@given(
    st.lists(st.tuples(st.text(max_size=60), NUMBERS, NUMBERS), min_size=1, max_size=5), st.lists(NUMBERS, min_size=5)
)
def test_everything_is_drawn_inside_its_picture(rows: list[tuple[str, float, float]], values: list[float]) -> None:
    """Lines, bars and ranges of any numbers, and labels that could be markup."""
    told = Told("x", "<title>", "a & b")
    points = [(float(place), value) for place, value in enumerate(values)]
    plot = Plot(told, across=(0, len(values) - 1), up=(0, max(values))).axes("x", "y").line(points, 7)
    five = sorted(values[:5])
    pictures = (
        plot.svg(),
        bars(told, [(text, value, limit, value > limit) for text, value, limit in rows]),
        ranges(told, [(text, five) for text, _, _ in rows], "ms"),
    )
    for picture in pictures:
        Page(picture)
        size = re.search(r'viewBox="0 0 (\S+) (\S+)"', picture)
        assert size is not None
        assert (float(size[1]), float(size[2]) <= max(HEIGHT, 200)) == (WIDTH, True)
        for name, value in re.findall(r'\b(x1|x2|cx|x|y1|y2|cy|y)="(-?[\d.]+)"', picture):
            assert -0.1 <= float(value) <= float(size[1] if "x" in name else size[2]) + 0.1, (name, value)


def test_a_table_tells_its_rows_and_columns() -> None:
    """Headings have a scope, numbers stand at the right, the whole can be scrolled with the keyboard."""
    found = Page(table("What <it> is", ("name", "n"), [("a", 1.5), (Cell("b", remark="of <c>"), None)]))
    assert [one.get("scope") for one in found.all("th")] == ["col", "col", "row", "row"]
    assert [one.get("class") for one in found.all("td")] == ["n", "n"]
    assert found.all("div")[0]["tabindex"] == "0"
    assert "of <c>" in found.words


def _light(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_everything_stands_out_from_its_ground(colours: dict[str, str]) -> None:
    """The contrast that WCAG asks for: 4.5 for text, 3 for lines, on paper and on panels."""
    for ground in ("paper", "panel"):
        for name, colour in colours.items():
            if name in {"paper", "panel", "edge"}:
                continue
            dark, light = sorted((_light(colour), _light(colours[ground])))
            assert (light + 0.05) / (dark + 0.05) >= (3 if name[0] == "s" and name[1:].isdigit() else 4.5), (
                name,
                ground,
            )


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_terminal_shows_every_measure_at_any_width(width: int) -> None:
    """In as many tables as it takes; no number is cut off."""
    names = ("accuracy", "precision", "recall", "f1", "auc", "log_loss", "brier", "calibration_error")
    measures = {name: quantity(0.1 * place, 0.05, 0.95) for place, name in enumerate(names, 1)}
    text = shown(report_table(report(variants=[variant(measures=measures), variant("model", "rules")])), width)
    assert max(map(len, text.splitlines())) <= width
    for place, name in enumerate(
        ("accuracy", "precision", "recall", "F1", "AUC", "log loss", "Brier", "calib. error"), 1
    ):
        assert name in text
        assert f"{0.1 * place:.3f}" in text
    assert text.count("0.050–0.950") == len(names)
    assert "…" not in text
    assert "feature distance_km" in flat(text)


def test_a_terminal_says_when_there_is_nothing() -> None:
    """No empty table here either."""
    text = flat(shown(report_table(report(**NOTHING))))
    assert "No decision was recorded in this time" in text
    assert "No verdict on drift yet" in text
    silent = flat(shown(report_table(report(variants=[variant(measures={}, outcomes=0)], findings=[]))))
    assert "nobody knows yet how good the answers were" in silent


def test_names_of_shadows_do_no_harm_on_the_page() -> None:
    """Whatever a shadow is called, it is text there; one without outcomes has no table."""
    shadow = {
        "experiment": "<b>e</b>",
        "variant": "<script>v</script>",
        "answered": 3,
        "failures": {"timeout": 2},
        "agreement": 1 / 3,
        "outcomes": 0,
        "measures": {},
        "told_measures": {},
        "latency_p50_ms": 1.0,
        "latency_p99_ms": 2.0,
    }
    found = shadow_section([shadow])
    assert "<script>" not in found
    assert "<b>" not in found
    assert "3 copies answered; 2 not (2 timeout); 33.3% come to the same" in found
    assert "<table>" not in found
    measured = shadow_section([{**shadow, "measures": {"<i>m": {"value": 1.0, "low": None, "high": None}}}])
    assert "<table>" in measured
    assert "<i>" not in measured
    assert not shadow_section([])
