"""Laws of admission under load."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.runtime.admission import (
    LONGEST_HINT,
    LOWEST_ROOM,
    SHORTEST_HINT,
    VERY_LATE_SECONDS,
    VERY_LATE_TICKS,
    Admission,
    first_text,
)
from turnout.v1 import prediction_pb2

LIMIT = 100


class AnyLoad(RuleBasedStateMachine):
    """Calls come and go while the loop is as late as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(LIMIT, lambda: self.chance)
        self.chance = 0.5
        self.inside: list[bool] = []

    @rule(critical=st.booleans(), chance=st.floats(0, 1, exclude_max=True), times=st.integers(1, 60))
    def calls_come(self, chance: float, times: int, *, critical: bool) -> None:
        self.chance = chance
        for _ in range(times):
            room = self.admission.under_way < self.admission.room
            wait = self.admission.enter(critical=critical)
            if critical:
                assert wait == 0.0, "a critical call is never refused"
            if room:
                assert wait == 0.0, "where there is room, nobody is refused"
            if wait:
                assert SHORTEST_HINT * 0.5 <= wait <= LONGEST_HINT * 1.5
            else:
                self.inside.append(critical)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def a_call_ends(self, data: st.DataObject) -> None:
        critical = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        self.admission.leave(critical=critical)

    @rule(late=st.floats(0, 1), ticks=st.integers(1, 30))
    def time_passes(self, late: float, ticks: int) -> None:
        for _ in range(ticks):
            self.admission.tick(late)
        if ticks >= VERY_LATE_TICKS:
            assert self.admission.shedding or late <= VERY_LATE_SECONDS

    @invariant()
    def bounds_hold(self) -> None:
        assert LOWEST_ROOM <= self.admission.room <= LIMIT
        assert self.admission.under_way == self.inside.count(False) <= LIMIT
        assert (
            not self.admission.shedding
            or self.inside.count(True) > LIMIT
            or self.admission._very_late >= VERY_LATE_TICKS
        )


AnyLoad.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyLoad = AnyLoad.TestCase


def test_a_late_loop_shrinks_the_room_and_a_prompt_one_gives_it_back() -> None:
    """A loop that is late at every tick leaves the lowest room; one prompt tick in ten is enough to keep it all."""
    admission = Admission(1000)
    for tick in range(1000):
        admission.tick(0.0 if tick % 10 == 0 else 0.02)
    assert admission.room == 1000
    for _ in range(1000):
        admission.tick(0.02)
    assert admission.room == 1000, "with nobody inside it is not the calls' fault"
    for _ in range(1000):
        while not admission.enter():
            pass
        admission.tick(0.02)
        while admission.under_way:
            admission.leave()
    assert admission.room == LOWEST_ROOM
    for _ in range(600):
        admission.tick(0.0)
    assert admission.room == 1000


def test_callers_who_heed_the_hint_cost_little() -> None:
    """500 callers against a server that answers 1 000 calls a second, 10 at a time: refusals end under a tenth."""
    admission = Admission(10, lambda: 0.5)
    due = dict.fromkeys(range(500), 0.0)
    answered = refused = 0
    for step in range(60_000):
        now = step / 1000
        come = [caller for caller, at in due.items() if at <= now]
        inside = []
        for caller in come:
            wait = admission.enter()
            due[caller] = now + (wait or 0.01)
            if wait:
                refused += step >= 30_000
            else:
                inside.append(caller)
                answered += step >= 30_000
        for _ in inside:
            admission.leave()
        if step % 10 == 0:
            admission.tick(0.0)
    assert answered > 0
    assert refused <= 0.1 * answered


@given(st.text(max_size=200))
def test_the_family_of_a_call_is_known_without_decoding_it(family: str) -> None:
    """Short names are found, long ones are not, and nothing breaks on other bytes."""
    raw = prediction_pb2.PredictRequest(family=family, numbers={"x": 1.0}).SerializeToString()
    name = family.encode()
    assert first_text(raw) == (name if len(name) < 128 else b"")


@given(st.binary(max_size=40))
def test_any_bytes_may_come(raw: bytes) -> None:
    """Whatever is found is part of what came."""
    assert first_text(raw) in raw
