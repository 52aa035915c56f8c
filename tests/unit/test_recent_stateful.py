"""Laws of idempotency: a decision id that a caller uses again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.recent import Entry, RecentDecisions, answer_of
from services.runtime.errors import AlreadyExists
from turnout.v1 import prediction_pb2

Key = tuple[str, str]
TENANTS = st.sampled_from(["a", "b"])
IDS = st.sampled_from(["1", "2", "b/1"])
BODIES = st.sampled_from([b"body", b"other"])
SURELY_KEPT = 900
"""Ids that may be claimed after an answered one before it can be forgotten: the memory of 1 000 goes in steps of 50."""


@dataclass
class Known:
    """What the first call with an id brought."""

    body: bytes
    claimed: int
    value: float | None = None
    waiting: list[asyncio.Task[prediction_pb2.PredictResponse | None]] = field(default_factory=list)


class AnyCallers(RuleBasedStateMachine):
    """Callers of two tenants use a few ids again and again, in any order, with the same body or another."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.recent = RecentDecisions(5_000)
        self.known: dict[Key, Known] = {}
        self.claimed = 0

    def teardown(self) -> None:
        for known in self.known.values():
            for task in known.waiting:
                task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    @rule(tenant=TENANTS, decision_id=IDS, body=BODIES)
    def a_call_comes(self, tenant: str, decision_id: str, body: bytes) -> None:
        known = self.known.get((tenant, decision_id))
        try:
            entry = self.recent.claim(tenant, decision_id, body)
        except AlreadyExists:
            assert known is not None, "an id that nobody used is new, whatever other tenants used"
            assert known.body != body, "only another body is refused"
            return
        if entry is None:
            self._first(tenant, decision_id, body)
        else:
            assert known is not None, "an id that nobody used is new, whatever other tenants used"
            assert known.body == body, "another body never gets the first one's answer"
            self._again(known, entry)

    def _first(self, tenant: str, decision_id: str, body: bytes) -> None:
        before = self.known.get((tenant, decision_id))
        if before is not None:
            assert before.value is not None, "a decision under way is never forgotten"
            assert self.claimed - before.claimed >= SURELY_KEPT, "an answer is kept for its share of the memory"
        self.claimed += 1
        self.known[tenant, decision_id] = Known(body, self.claimed)

    def _again(self, known: Known, entry: Entry) -> None:
        asked = self.loop.create_task(answer_of(entry, 60.0))
        self.loop.run_until_complete(asyncio.sleep(0))
        if known.value is None:
            assert not asked.done(), "it waits for the first call"
            known.waiting.append(asked)
        else:
            answer = self.loop.run_until_complete(asked)
            assert answer is not None
            assert answer.value == known.value, "the same answer again"

    @precondition(lambda self: any(known.value is None for known in self.known.values()))
    @rule(data=st.data(), value=st.floats(0, 1))
    def the_first_call_is_answered(self, data: st.DataObject, value: float) -> None:
        key = data.draw(st.sampled_from(sorted(key for key, known in self.known.items() if known.value is None)))
        known = self.known[key]
        known.value = value
        self.recent.settle(*key, prediction_pb2.PredictResponse(decision_id=key[1], value=value))
        for asked in known.waiting:
            answer = self.loop.run_until_complete(asked)
            assert answer is not None
            assert answer.value == value, "who waited hears the very same"
        known.waiting.clear()

    @precondition(lambda self: any(known.value is None and not known.waiting for known in self.known.values()))
    @rule(data=st.data())
    def the_first_call_is_refused_after_all(self, data: st.DataObject) -> None:
        free = sorted(key for key, known in self.known.items() if known.value is None and not known.waiting)
        key = data.draw(st.sampled_from(free))
        self.recent.release(*key)
        del self.known[key]

    @rule()
    def many_others_come_and_are_answered(self) -> None:
        for number in range(self.claimed, self.claimed + 400):
            assert self.recent.claim("c", str(number), b"body") is None
            self.recent.settle("c", str(number), prediction_pb2.PredictResponse(value=0.5))
        self.claimed += 400

    @invariant()
    def the_memory_is_bounded(self) -> None:
        under_way = sum(known.value is None for known in self.known.values())
        assert self.recent.entries <= 1_000 + under_way


AnyCallers.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAnyCallers = AnyCallers.TestCase
