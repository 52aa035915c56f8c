"""Shapley values of one row against the manifest's background rows, by sampled permutations.

A permutation turns a background row into the row to explain, one feature after the other; a feature's contribution
is the mean change of the answer when its turn comes. Each permutation is walked forwards and backwards (antithetic
sampling), which takes out much of the chance at half the cost. The changes of a walk telescope, so the contributions
sum to value − base_value by construction, not by estimate. Source: Castro, Gómez, Tejada, "Polynomial calculation of
the Shapley value based on sampling" (2009); Mitchell et al., "Sampling permutations for Shapley value estimation"
(JMLR 23, 2022).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Final

from bentos.manifest import Manifest
from services.model_server.engine import Engine
from services.runtime.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, ResourceExhausted

MAX_ROWS: Final = 2000
"""Rows of inference that one attribution may cost (one permutation is always walked)."""
MAX_PAIRS: Final = 256
"""Pairs of walks that are made where features are so few that more would fit."""
MAX_WAITING: Final = 8
_CHUNK_ROWS: Final = 64
"""Rows of one run: answers that are asked for meanwhile wait for no more than this on a busy core."""

Attribution = tuple[float, float, list[float]]
"""Value, base value, one contribution a feature."""


class Attributor:
    """Attributes rows in a thread of its own, off the answer path. The same row always gets the same values."""

    def __init__(
        self, engine: Engine, manifest: Manifest, *, worker: Executor, clock: Callable[[], float], seed: int = 0
    ) -> None:
        self._engine = engine
        self._background = manifest.background
        self._worker = worker
        self._clock = clock
        self._seed = seed
        self._plan: _Plan | None = None
        self._waiting = 0

    async def attribute(self, packed: bytes, deadline: float | None) -> Attribution:
        """Attributes the first output for one packed row; `deadline` is in the clock's seconds.

        Raises:
            ResourceExhausted: too many attributions wait.
            DeadlineExceeded: the deadline passed; what is left of the work is not done.
            FailedPrecondition: the bento has no background rows.
            InvalidArgument: the model's answer for this row is not a finite number.
        """
        if not self._background:
            raise FailedPrecondition("background", "the bento holds no background rows; package the variant again")
        if self._waiting >= MAX_WAITING:
            raise ResourceExhausted("", f"at most {MAX_WAITING} attributions may wait; try again")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._worker, self._attribute, packed, deadline)
        finally:
            self._waiting -= 1

    def _attribute(self, packed: bytes, deadline: float | None) -> Attribution:
        import numpy as np

        if self._plan is None:
            # Only the worker's one thread comes here.
            self._plan = _Plan(self._background, self._engine.features, self._seed)
        plan = self._plan
        row = np.frombuffer(packed, np.dtype("<f4"))
        # Rows: the row itself, the background rows in use, then all walks.
        rows = np.concatenate([row[None, :], plan.used, np.where(plan.taken, row[None, :], plan.start)])
        answers = self._answers(rows, deadline)
        if not np.isfinite(answers).all():
            raise InvalidArgument(
                "tensor", "the model gives no finite answer around this row, so it has no Shapley values"
            )
        return plan.contributions(answers)

    def _answers(self, rows: Any, deadline: float | None) -> Any:
        """First output of each row, as float64."""
        import numpy as np

        parts = []
        for begin in range(0, len(rows), _CHUNK_ROWS):
            if deadline is not None and self._clock() >= deadline:
                raise DeadlineExceeded("", "the call's time was over before the attribution was done")
            chunk = np.ascontiguousarray(rows[begin : begin + _CHUNK_ROWS], dtype="<f4")
            output = self._engine.infer(chunk.tobytes(), len(chunk))
            parts.append(np.frombuffer(output, "<f4").reshape(len(chunk), self._engine.outputs)[:, 0])
        return np.concatenate(parts).astype(np.float64)


class _Plan:
    """Which walks are made; depends on the background, the number of features and the seed only.

    Attributes:
        used: background rows in use, float32 [backgrounds, features].
        taken: for each step of each walk, which features come from the row, bool [walks × (features − 1), features].
        start: for each step of each walk, its background row, float32 of the same shape.
    """

    def __init__(self, background: Sequence[Sequence[float | None]], features: int, seed: int) -> None:
        import numpy as np

        # A pair of walks costs its inner steps and its background row; both share the row itself.
        pairs = min(max(1, (MAX_ROWS - 1) // (2 * (features - 1) + 1)), MAX_PAIRS)
        count = min(len(background), pairs)
        chosen = [background[index * len(background) // count] for index in range(count)]
        # Every background row equally often: the base value is their plain mean, the same for every row.
        pairs = pairs // count * count
        shuffle = random.Random(seed).shuffle  # noqa: S311 - a fixed sequence is what is wanted
        orders = []
        for _ in range(pairs):
            order = list(range(features))
            shuffle(order)
            orders += [order, order[::-1]]
        self._orders = np.array(orders)
        self._from = np.repeat(np.arange(pairs) % count, 2)
        self.used = np.array([[np.nan if v is None else v for v in row] for row in chosen], dtype=np.float32)
        turns = np.argsort(self._orders, axis=1)
        self.taken = (turns[:, None, :] < np.arange(1, features)[None, :, None]).reshape(-1, features)
        self.start = np.repeat(self.used[self._from], features - 1, axis=0)

    def contributions(self, answers: Any) -> Attribution:
        """Turns the answers of all rows into the attribution."""
        import numpy as np

        count, (walks, features) = len(self.used), self._orders.shape
        value, bases = answers[0], answers[1 : 1 + count]
        inner = answers[1 + count :].reshape(walks, features - 1)
        path = np.concatenate([bases[self._from, None], inner, np.full((walks, 1), value)], axis=1)
        changes = np.empty((walks, features))
        np.put_along_axis(changes, self._orders, np.diff(path, axis=1), axis=1)
        return float(value), float(bases.mean()), [float(c) for c in changes.mean(axis=0)]
