"""turnout.yaml is edited while calls flow: good files take effect within seconds, bad ones never, and no call fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.config_watch import watch
from services.runtime.config import Config
from tests.integration.platform_under_test import Platform, experiment, platform
from turnout.v1 import prediction_pb2


@dataclass
class Flow:
    """Calls that never stop; `answers` holds what came back, and a failed call fails the test."""

    p: Platform
    answers: list[prediction_pb2.PredictResponse] = field(default_factory=list)

    async def run(self) -> None:
        while True:
            self.answers.append(await self.p.call.predict(unit_id=f"u{len(self.answers)}"))

    async def until(self, condition: Callable[[prediction_pb2.PredictResponse], bool]) -> None:
        """Waits for an answer, made from now on, that fulfils a condition."""
        begin = len(self.answers)
        async with asyncio.timeout(10):
            while not any(map(condition, self.answers[begin:])):
                await asyncio.sleep(0.005)

    async def until_revision(self, revision: int) -> None:
        """Waits until an experiment's revision answers."""
        await self.until(lambda answer: answer.assignment.revision == revision)


def loads(p: Platform, result: str) -> float:
    """Readings of the file so far, by result."""
    counter = p.router.decider.metrics._configuration
    return counter.labels(result)._value.get()


async def until_refused(p: Platform, times: float) -> None:
    async with asyncio.timeout(10):
        while loads(p, "refused") < times:
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def flowing() -> AsyncIterator[tuple[Platform, Flow]]:
    async with platform() as p:
        flow = Flow(p)
        task = asyncio.create_task(flow.run())
        try:
            yield p, flow
            assert not task.done(), "no call failed"
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert len(flow.answers) <= len(p.decisions())


def revision(number: int, *, rules: float, model: float, **fields: Any) -> dict[str, object]:
    return {"dispatch": experiment(rules=rules, model=model, **fields) | {"revision": number}}


async def test_new_weights_take_effect_while_calls_flow() -> None:
    """The snapshot stands in the journal before the first decision that uses it, and old revisions do not come back."""
    async with flowing() as (p, flow):
        await flow.until_revision(1)
        for number in range(2, 7):
            p.write(experiments=revision(number, rules=100 * (number % 2 == 0), model=100 * (number % 2)))
            await flow.until_revision(number)
            expected = "rules" if number % 2 == 0 else "fake"
            assert flow.answers[-1].served_variant == expected
        revisions = [answer.assignment.revision for answer in flow.answers]
        assert revisions == sorted(revisions)
        seen: set[int] = set()
        for record in p.records():
            if record.HasField("snapshot"):
                seen.add(record.snapshot.digest)
            elif record.HasField("decision"):
                assert record.decision.prediction.assignment.snapshot_digest in seen
        # Each revision stands there as an experiment and as the set that it is in.
        assert len(seen) == 12
        assert (loads(p, "applied"), loads(p, "refused")) == (5, 0)


GOOD = revision(2, rules=50, model=50)
BAD: dict[str, str | bytes] = {
    "no YAML": "families: [",
    "no UTF-8": b"families: \xff",
    "nothing": "",
    "a value that is not of its YAML type": 'families: !!int ""',
    "an unknown key": yaml.safe_dump({"families": {"dispatch": {"colour": 1}}}),
    "weights all zero": yaml.safe_dump(
        {"families": {"dispatch": {}}, "experiments": {"dispatch": experiment(rules=0, model=0)}}
    ),
    "an unknown variant": yaml.safe_dump({"families": {"dispatch": {}}, "experiments": {"dispatch": experiment()}}),
    "an unknown champion": yaml.safe_dump(
        {"families": {"dispatch": {}}, "experiments": {"dispatch": experiment() | {"champion": "nobody"}}}
    ),
    "an experiment without a family": yaml.safe_dump({"families": {}, "experiments": GOOD}),
    "an unknown family": yaml.safe_dump({"families": {"cooking": {}}}),
    "a key twice": "families: {dispatch: {}}\nfamilies: {dispatch: {}}\n",
    "over 1 MiB": "# " + "x" * (1 << 20),
}


async def test_bad_files_are_refused_whole_and_a_good_one_afterwards_is_applied() -> None:
    """The old configuration stays, each refusal is counted."""
    async with flowing() as (p, flow):
        for count, (case, text) in enumerate(BAD.items(), start=1):
            p.config_path.write_bytes(text if isinstance(text, bytes) else text.encode())
            await until_refused(p, count)
            await flow.until(lambda answer: answer.assignment.revision == 1 and answer.served_variant == "fake")
            assert loads(p, "applied") == 0, case
        p.write(experiments=GOOD)
        await flow.until_revision(2)
        assert loads(p, "refused") == len(BAD)


async def test_the_file_may_be_replaced_deleted_and_come_back() -> None:
    """By rename, as editors do it; through a directory of the same name; and with nothing there for a while."""
    async with flowing() as (p, flow):
        p.config["experiments"] = revision(2, rules=0, model=1)
        beside = p.config_path.with_suffix(".new")
        beside.write_text(yaml.safe_dump(p.config, sort_keys=False))
        beside.replace(p.config_path)
        await flow.until_revision(2)
        p.config_path.unlink()
        p.config_path.mkdir()
        await until_refused(p, 1)
        p.config_path.rmdir()
        await flow.until_revision(2)
        p.write(experiments=revision(3, rules=0, model=1))
        await flow.until_revision(3)


@pytest.mark.parametrize("strategy", ["random", "round_robin", "time"])
async def test_the_strategy_may_be_toggled(strategy: str) -> None:
    """Every strategy follows every other."""
    async with flowing() as (p, flow):
        changed = revision(2, rules=1, model=1, strategy={"kind": strategy})
        p.write(experiments=changed)
        await flow.until_revision(2)
        p.write(experiments=revision(3, rules=1, model=1))
        await flow.until_revision(3)


async def test_a_failure_inside_does_not_end_the_following(tmp_path: Path) -> None:
    """A file that cannot be applied for a reason that nobody foresaw is refused; the next one is applied."""
    path = tmp_path / "turnout.yaml"
    path.write_text("families: {}")
    tried: list[Path] = []
    refused, applied = asyncio.Event(), asyncio.Event()

    async def apply(config: Config) -> None:
        tried.append(config.home)
        if len(tried) == 1:
            raise LookupError("nobody foresaw this")
        applied.set()

    following = asyncio.create_task(watch(path, None, apply, refused.set))
    async with asyncio.timeout(10):
        await refused.wait()
        path.write_text("families: {}\nhome: there")
        await applied.wait()
    following.cancel()
    assert tried[1].name == "there"
