"""`turnout health | drift | alerts | report` against a served check cycle, and the report in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

from monitoring.cycle.routers import RouterBook
from services.cli.main import run
from services.runtime.database import sqlite_url
from tests.integration.cycle_under_test import Stage, a_stage, served
from turnout.v1 import ledger_pb2

CHROMIUM = Path("/usr/bin/chromium")
SMALLEST_LETTERS = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
CUT_OFF = """[...document.querySelectorAll('svg')].flatMap(svg => {
    const whole = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(text => {
        const own = text.getBoundingClientRect();
        return own.left < whole.left - 1 || own.right > whole.right + 1 || own.bottom > whole.bottom + 1;
    }).map(text => text.textContent);
})"""


@contextlib.asynccontextmanager
async def a_server(folder: Path) -> AsyncIterator[tuple[Stage, str, RouterBook]]:
    """A stage with some traffic, behind gRPC."""
    books = RouterBook()
    # The stage's logs must not stand among what the command prints.
    with structlog.testing.capture_logs():
        async with a_stage(str(sqlite_url(folder / "hub.sqlite"))) as stage, served(stage, books) as address:
            yield stage, address, books


async def traffic(stage: Stage) -> None:
    """Two arms, of which one drifts, falls back and is slow for a while."""
    for _ in range(4):
        await stage.traffic.run(500)
        await stage.cycle.once()
    stage.traffic.shift = 1.0
    await stage.traffic.run(1000)
    stage.traffic.fallback, stage.traffic.latency_us = 2, 30_000
    await stage.traffic.run(250)
    stage.traffic.fallback = 0
    stage.traffic.arm = stage.traffic.variant = "rules"
    await stage.traffic.run(500)
    await stage.cycle.once()


def listen(page: Any, requests: list[str], complaints: list[str]) -> None:
    """Notes what a page asks for and what the browser complains of."""
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda line: complaints.append(line.text))


async def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Runs the command; gives its exit code and what it printed."""
    capsys.readouterr()
    code = await asyncio.to_thread(run, arguments)
    return code, capsys.readouterr().out


async def test_health_drift_alerts_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command tells programs and people what the cycle found."""
    async with a_server(tmp_path) as (stage, address, books):
        hub = ("--hub", address)
        await traffic(stage)
        journal = ledger_pb2.JournalStatus(started=10, stored=7, pending=2, set_aside=1)
        books.tell("router-a", journal, stage.clock.now_us)

        code, text = await said(capsys, "health", *hub, "-o", "json")
        health = json.loads(text)
        assert (code, health["state"]) == (1 if health["state"] == "unhealthy" else 0, health["state"])
        assert {one["dimension"] for one in health["dimensions"]} == {"database", "model", "predictions", "fallback"}
        (router,) = health["ledger"]["routers"]
        assert (router["router"], router["started"], router["balanced"]) == ("router-a", 10, True)
        _, text = await said(capsys, "health", *hub)
        assert "router-a" in text
        assert "predictions" in text

        for command in ("health", "drift", "report"):
            code, _ = await said(capsys, command, "toi", *hub)
            assert code == 2, command

        code, text = await said(capsys, "drift", "toy", *hub, "--kind", "feature", "--verdict", "drift", "-o", "json")
        assert {one["feature"] for one in json.loads(text)["findings"]} == {"b"}
        code, text = await said(capsys, "drift", *hub, "--fail")
        assert code == 1
        assert "drift" in text

        _, text = await said(capsys, "alerts", "list", *hub, "-o", "json", "--type", "feature_drift")
        alert = next(one for one in json.loads(text) if one["labels"].get("feature") == "b")
        code, text = await said(capsys, "alerts", "resolve", alert["id"], "--why", "known", *hub, "-o", "json")
        assert json.loads(text)["resolved_why"] == "known"
        _, text = await said(capsys, "alerts", "show", alert["id"], *hub, "-o", "yaml")
        assert "fired" in text
        _, text = await said(capsys, "alerts", "history", *hub)
        assert "resolved" in text
        _, text = await said(capsys, "alerts", "stats", *hub, "-o", "json")
        assert any(one["type"] == "feature_drift" and one["resolved"] for one in json.loads(text)["counts"])
        code, _ = await said(capsys, "alerts", "list", "--severity", "awful", *hub)
        assert code == 2

        _, text = await said(capsys, "report", "toy", "--window", "1h", *hub, "-o", "json")
        report = json.loads(text)
        model = next(one for one in report["variants"] if (one["arm"], one["variant"]) == ("model", "model"))
        assert model["decisions"] == model["outcomes"] == 3000
        assert 0.6 < model["measures"]["accuracy"]["value"] < 0.8
        assert len(model["steps"]) > 1
        assert report["distributions"][1]["fallback_reasons"]
        _, text = await said(capsys, "report", "toy", *hub)
        assert "accuracy" in text
        code, _ = await said(capsys, "report", "toy", "--window", "10s", *hub)
        assert code == 2


async def test_silences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A silence is made with matchers, listed, and ended; one without a value is refused."""
    async with a_server(tmp_path) as (stage, address, _):
        # The command reckons the end by the machine's clock.
        stage.clock.now_us = time.time_ns() // 1000
        hub = ("--hub", address, "-o", "json")
        code, _ = await said(capsys, "alerts", "silence", "family", "--for", "2h", "--why", "x", *hub)
        assert code == 2
        code, text = await said(
            capsys, "alerts", "silence", "family=toy", "feature~=dist*", "--for", "2h", "--why", "known", *hub
        )
        silence = json.loads(text)
        assert (code, silence["matchers"], silence["matched"]) == (0, ["family=toy", "feature~=dist*"], 0)
        _, text = await said(capsys, "alerts", "silences", *hub)
        assert [one["id"] for one in json.loads(text)] == [silence["id"]]
        code, _ = await said(capsys, "alerts", "unsilence", silence["id"], *hub)
        assert code == 0
        stage.clock.forward(1)
        _, text = await said(capsys, "alerts", "silences", *hub)
        assert json.loads(text) == []
        _, text = await said(capsys, "alerts", "silences", "--ended", *hub)
        assert len(json.loads(text)) == 1


@pytest.mark.skipif(not CHROMIUM.exists(), reason="chromium is not installed")
async def test_the_report_in_a_browser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page has its plots, fetches nothing, says nothing on the console, fits a phone, and knows the dark."""
    from playwright.async_api import async_playwright

    page_file = tmp_path / "report.html"
    async with a_server(tmp_path) as (stage, address, _):
        await traffic(stage)
        code, _ = await said(capsys, "report", "toy", "--window", "1h", "--html", str(page_file), "--hub", address)
    assert code == 0
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        try:
            schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
            for scheme in schemes:
                page = await browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 900})
                requests: list[str] = []
                complaints: list[str] = []
                listen(page, requests, complaints)
                await page.goto(page_file.as_uri())
                assert requests == [page_file.as_uri()]
                titles = await page.locator("figure h3").all_inner_texts()
                assert set(titles) == {
                    "Decisions over time",
                    "Accuracy over time",
                    "Calibration",
                    "Predicted values",
                    "Confidences",
                    "Time to answer",
                    "Time to answer over time",
                    "Drift by feature",
                    "Fallbacks by reason",
                }
                # Who cannot see a plot hears its title and description, and finds its numbers.
                assert await page.get_by_role("img").count() == len(titles)
                assert (
                    await page.locator("svg > title").count() == await page.locator("svg > desc").count() == len(titles)
                )
                assert await page.locator("figure details table").count() == len(titles)
                width = await page.evaluate("document.documentElement.scrollWidth")
                assert width <= 1200
                await page.set_viewport_size({"width": 400, "height": 800})
                assert await page.evaluate("document.documentElement.scrollWidth") <= 400
                # Letters of a plot are no smaller than 9 pixels on a phone, and none of them is cut off.
                assert await page.evaluate(SMALLEST_LETTERS) >= 9
                assert await page.evaluate(CUT_OFF) == []
                assert complaints == []
                await page.set_viewport_size({"width": 1200, "height": 900})
                await page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
            paper = "getComputedStyle(document.body).backgroundColor"
            assert await page.evaluate(paper) == "rgb(18, 21, 29)"
            # On paper it is light, whatever the screen; what can be unfolded stays away.
            await page.emulate_media(media="print")
            assert await page.evaluate(paper) == "rgb(255, 255, 255)"
            assert await page.locator("details:visible").count() == 0
            assert (await page.pdf(format="A4")).startswith(b"%PDF")
        finally:
            await browser.close()
