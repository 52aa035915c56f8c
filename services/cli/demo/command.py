"""`turnout demo`: the main job, end to end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from services.cli.output import Format, FormatOption, emit, messages

_SIMULATED = 4000
_RECORDED = 40_000


def demo(
    *,
    seconds: Annotated[float, typer.Option("--seconds", min=3.0, max=86_400.0, help="How long traffic flows.")] = 30.0,
    data: Annotated[Path | None, typer.Option("--data", help="Real records: learn the past, replay the rest.")] = None,
    city: Annotated[Path | None, typer.Option("--city", help="Folder of a JEMSS city to simulate.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=1_000_000_000, help="Of everything random.")] = 1,
    calls: Annotated[
        int | None,
        typer.Option(
            "--calls",
            min=300,
            max=1_000_000,
            help="Past decisions to learn from; 4000 simulated ones, 40000 of --data.",
        ),
    ] = None,
    variants: Annotated[str, typer.Option("--variants", help="Only these, for example xgboost,lightgbm.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's folder.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Simulate, train, package, serve, split, kill, recover, verify: the main job in a private folder."""
    from services.cli.demo.plan import Plan
    from services.cli.progress import Steps
    from services.runtime.errors import InvalidArgument

    if data is not None and city is not None:
        raise InvalidArgument("data", "give --data or --city, not both")
    chosen = tuple(name.strip() for name in variants.split(",") if name.strip())
    plan = Plan(
        seconds=seconds,
        seed=seed,
        calls=calls or (_SIMULATED if data is None else _RECORDED),
        data=data,
        city=city,
        variants=chosen or None,
    )
    # Until the first process runs, SIGTERM is what Ctrl-C is: the private folder is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _private_home(keep=keep) as root:
        from services.cli.demo.report import table
        from services.cli.demo.run import run
        from services.cli.quiet import logs_to

        with logs_to(root / "logs" / "demo.log"), Steps(messages()) as steps:
            result, trained = run(plan, root, steps)
        emit(output, result, lambda: table(result, trained))
        if result["failures"]:
            messages().print(f"turnout: the demo failed: {'; '.join(result['failures'])}", markup=False, soft_wrap=True)
            raise typer.Exit(1)


@contextlib.contextmanager
def _private_home(*, keep: bool) -> Iterator[Path]:
    """Makes a folder of its own for a run, under TURNOUT_HOME where that is set; removed unless it is of use."""
    parent = os.environ.get("TURNOUT_HOME")
    if parent:
        Path(parent).mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="turnout-demo-", dir=parent or None)).resolve()
    try:
        yield root
    except Exception:
        if not (root / "turnout.yaml").exists():
            # Nothing was started yet: there are no logs that could help.
            _remove(root)
            raise
        messages().print(f"the demo's folder is kept: {root}", markup=False, soft_wrap=True)
        raise
    except BaseException:
        _remove(root)
        raise
    if keep:
        messages().print(f"the demo's folder: {root}", markup=False, soft_wrap=True)
    else:
        _remove(root)


def _remove(root: Path) -> None:
    """Removes a run's folder, and that of its sockets, which lies elsewhere where the folder's name is long."""
    from services.runtime.home import Home

    # A name this long is never placed inside the folder, so this is where the others of such a length went.
    sockets = Path(Home(root).socket("x" * 100).removeprefix("unix:")).parent
    shutil.rmtree(sockets, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
