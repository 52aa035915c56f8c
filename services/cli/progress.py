"""Progress of what takes longer: bars on a terminal, one line a step elsewhere; always on standard error."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

_LINE_SECONDS: Final = 2.0


class Step:
    """One step under way."""

    def __init__(self, console: Console, progress: Progress, task: TaskID, title: str) -> None:
        self.note = ""
        """Said behind the title when the step is over."""
        self._console = console
        self._said_at = time.monotonic()
        self._progress = progress
        self._task = task
        self._title = title

    def update(self, done: float, total: float) -> None:
        """Shows how far the step is."""
        self._progress.update(self._task, completed=done, total=total)

    def doing(self, what: str) -> None:
        """Shows what is being done now; where lines are printed, one in two seconds."""
        self._progress.update(self._task, description=f"{self._title}: {what}")
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said_at >= _LINE_SECONDS:
            self._said_at = now
            self._console.print(f"{self._title}: {what} …", markup=False, soft_wrap=True)


class Steps:
    """A list of steps; use it inside `with`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text=Text("✓", style="green")),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        """Starts showing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops showing."""
        self._progress.stop()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Shows a step until the block ends."""
        started = time.monotonic()
        task = self._progress.add_task(title, total=None)
        step = Step(self._console, self._progress, task, title)
        if not self._console.is_terminal:
            self._console.print(f"{title} …", markup=False, soft_wrap=True)
        yield step
        done = f"{title}: {step.note}" if step.note else title
        self._progress.update(task, description=done, total=1, completed=1)
        if not self._console.is_terminal:
            seconds = time.monotonic() - started
            self._console.print(f"{done} ({seconds:.1f} s)", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Prints one line between the steps."""
        self._console.print(text, markup=False, soft_wrap=True)
