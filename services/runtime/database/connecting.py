"""What the two dialects have in common: engines for one writer and a few readers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Engine

Dialect = Literal["sqlite", "postgresql"]
READERS = 2
"""Connections that read at the same time."""


class DatabaseUnusable(Exception):
    """The database cannot be used; the text says why and what to do, and is safe to show: it holds no password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """A database's engines.

    `writer` has one connection, `readers` have READERS that cannot write. `limited(connection, seconds)` ends what a
    reader does after so many seconds, with an error that `interrupted` recognises. `finish` is called before the
    writer closes. `generation` grows each time the writer had to connect anew: somebody else may have written since.
    """

    dialect: Dialect
    name: str
    writer: Engine
    readers: Engine
    limited: Callable[[Connection, float], contextlib.AbstractContextManager[None]]
    interrupted: Callable[[BaseException | None], bool]
    finish: Callable[[], None]
    generation: Callable[[], int]
