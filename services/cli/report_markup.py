"""Tables and words of the report as HTML. Pure; everything that comes from outside is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from services.cli.report_plots import said

_TIME_STEPS: Final = (60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000, 7_776_000)
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Cell:
    """Text in a table.

    Args:
        text: what stands there.
        kind: class of the style sheet.
        remark: what stands below it, smaller.
        numeric: it is a number, and stands at the right.
    """

    text: str
    kind: str = ""
    remark: str = ""
    numeric: bool = False

    def html(self, tag: str) -> str:
        """Gives the element."""
        kinds = " ".join(filter(None, (self.kind, "n" if self.numeric else "")))
        kind = f' class="{escape(kinds)}"' if kinds else ""
        remark = f"<small>{escape(self.remark)}</small>" if self.remark else ""
        return f"<{tag}{kind}>{escape(self.text)}{remark}</{tag.partition(' ')[0]}>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell | str | float | None]]) -> str:
    """Gives a table that scrolls by itself where it is too wide; the first cell of a row is its heading.

    Args:
        caption: what the table shows.
        head: names of the columns.
        rows: cells; numbers stand at the right, None is a number that nobody knows.
    """
    listed = [[_cell(one) for one in row] for row in rows]
    numeric = [bool(listed) and all(row[place].numeric for row in listed) for place in range(len(head))]
    top = "".join(Cell(one, numeric=right).html('th scope="col"') for one, right in zip(head, numeric, strict=True))
    body = "".join(
        "<tr>" + row[0].html('th scope="row"') + "".join(one.html("td") for one in row[1:]) + "</tr>" for row in listed
    )
    called = escape(caption)
    return (
        f'<div class="wide" role="region" aria-label="{called}" tabindex="0"><table><caption>{called}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell | str | float | None) -> Cell:
    match cell:
        case Cell():
            return cell
        case str():
            return Cell(cell)
        case _:
            return Cell(number(cell), numeric=True)


def number(value: float | None) -> str:
    """Gives a number as people read it; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else said(value)


def name(one: dict[str, Any]) -> str:
    """Gives the name of an arm, and who answered in its place where that was somebody else."""
    return one["arm"] if one["arm"] == one["variant"] else f"{one['arm']}, answered by {one['variant']}"


def heading(one: dict[str, Any]) -> Cell:
    """Gives the same as the first cell of a row."""
    return Cell(one["arm"], "line1", "" if one["arm"] == one["variant"] else f"answered by {one['variant']}")


def measured(found: dict[str, Any] | None) -> tuple[str, str]:
    """Gives a measure's value, and its interval where one is known."""
    if found is None:
        return "–", ""
    interval = "" if found["low"] is None else f"{found['low']:.3f}–{found['high']:.3f}"
    return f"{found['value']:,.3f}", interval


def words(text: str) -> str:
    """Gives a name of ours as people write it: "F1" for f1, "log loss" for log_loss."""
    capitals = {"f1": "F1", "auc": "AUC", "brier": "Brier", "mae": "MAE", "rmse": "RMSE"}
    return capitals.get(text, text.replace("_", " ").replace("calibration", "calib."))


def clock(at: float, *, day: bool = False) -> str:
    """Gives an instant (seconds since 1970) as 15:04, or with its day as 21 Nov 15:04; of UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%d %b %H:%M" if day else "%H:%M")


def time_ticks(first: float, last: float) -> tuple[list[tuple[float, str]], str]:
    """Gives three to six round moments in a span with their labels, and the days that the span covers.

    Args:
        first: seconds since 1970.
        last: the same, later than `first`.
    """
    step = next((one for one in _TIME_STEPS if (last - first) / one <= 5), _TIME_STEPS[-1])
    begin = math.ceil(first / step) * step
    ticks = [float(begin + place * step) for place in range(int((last - begin) // step) + 1)] or [first, last]
    days = [f"{clock(at, day=True)[:6]}" for at in (first, last)]
    covered = days[0] if days[0] == days[1] else f"{days[0]} to {days[1]}"
    return [(at, clock(at, day=True)[:6] if step >= _DAY else clock(at)) for at in ticks], covered
