"""Changes over gRPC that depend on what is served: families, variants, tenants, and arms that nobody has ready."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import structlog

from tests.integration.control_under_test import CONFIG, control, until
from turnout.v1 import experiment_pb2

WEIGHTED = experiment_pb2.Strategy(weighted=experiment_pb2.WeightedStrategy())
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database; both kinds are the store's own test."""
    return f"sqlite:///{tmp_path / 'hub.sqlite'}"


def second(variant: str = "lgb", **fields: object) -> experiment_pb2.Experiment:
    """An experiment beside the one of the file."""
    arms = [
        experiment_pb2.Arm(name="a", variant=variant, weight=1),
        experiment_pb2.Arm(name="b", variant="rules", weight=1),
    ]
    form: dict[str, object] = {
        "name": "second",
        "family": "dispatch",
        "tenant": "north",
        "salt": "s",
        "strategy": WEIGHTED,
        "arms": arms,
        "champion": "b",
    }
    return experiment_pb2.Experiment(**(form | fields))  # type: ignore[arg-type]


async def test_what_turnout_yaml_does_not_have_is_refused(tmp_path: Path, url: str) -> None:
    """Family, variants and tenant, each with its field; nothing changes."""
    (tmp_path / "turnout.yaml").write_text(f"tenants: {{north: {{token_sha256: {'a' * 64}}}}}\n{CONFIG}")
    shadow = experiment_pb2.Shadow(variant="cat", percent=5)
    wrong = [
        (second(family="weather"), "experiment.family"),
        (second("cat"), "experiment.arms[a].variant"),
        (second(shadows=[shadow]), "experiment.shadows[cat]"),
        (second(tenant="teh-north"), "experiment.tenant"),
    ]
    async with control(tmp_path, url) as hub:
        for experiment, field in wrong:
            code, at_fault, told = await hub.refused(experiment_pb2.CreateExperimentRequest(experiment=experiment))
            assert (code, at_fault) == (PRECONDITION, field), told
        assert (await hub.ask(experiment_pb2.GetStatusRequest())).version == 1
        await hub.ask(experiment_pb2.CreateExperimentRequest(experiment=second()))
        counted = hub.registry.get_sample_value("turnout_control_refusals_total", {"kind": "create", "code": "9"})
        assert counted == 4


async def test_an_arm_that_no_router_has_ready_gets_no_traffic(tmp_path: Path, url: str) -> None:
    """Unless it is allowed, or no router tells; what runs already, and an undo, are never held up by it."""
    create = experiment_pb2.CreateExperimentRequest(experiment=second())
    async with control(tmp_path, url) as hub:
        watcher = hub.watcher()
        await watcher.answer(await watcher.hello())
        await watcher.ready(("dispatch", "xgb"))

        async def known() -> bool:
            try:
                await hub.ask(create)
            except grpc.aio.AioRpcError as error:
                return "no connected router has variant 'lgb' of dispatch ready" in (error.details() or "")
            deletion = experiment_pb2.DeleteExperimentRequest(name="second", base_revision=await revision())
            await hub.ask(deletion)
            return False

        async def revision() -> int:
            found = (await hub.ask(experiment_pb2.GetExperimentRequest(name="second"))).experiment
            return int(found.revision)

        await until(known)
        code, field, _ = await hub.refused(create)
        assert (code, field) == (PRECONDITION, "experiment.arms[a].variant")
        await hub.ask(experiment_pb2.CreateExperimentRequest(experiment=second(), allow_unready=True))
        await watcher.ready()
        # What runs may be steered all the same: only an arm that would begin to get traffic must be ready.
        base = await revision()
        steered = experiment_pb2.SetStrategyRequest(name="second", base_revision=base, weights={"a": 0})
        await hub.ask(steered)
        back = experiment_pb2.SetStrategyRequest(name="second", base_revision=base + 1, weights={"a": 2})
        assert (await hub.refused(back))[:2] == (PRECONDITION, "weights[a]")
        won = experiment_pb2.ConcludeExperimentRequest(name="second", base_revision=base + 1, winner="a")
        assert (await hub.refused(won))[:2] == (PRECONDITION, "winner")
        undone = experiment_pb2.UndoExperimentRequest(name="second", base_revision=base + 1)
        assert (await hub.ask(undone)).experiment.arms[0].weight == 1


async def test_a_concluded_experiment_is_steered_by_undo_only(tmp_path: Path, url: str) -> None:
    """Weights, pauses and another winner are refused with a hint; the same winner again changes nothing."""
    won = experiment_pb2.ConcludeExperimentRequest(name="dispatch", base_revision=2, winner="xgb", why="it is better")
    with structlog.testing.capture_logs() as lines:
        async with control(tmp_path, url) as hub:
            await hub.pause(1)
            concluded = (await hub.ask(won)).experiment
            assert (concluded.revision, concluded.winner, concluded.paused) == (3, "xgb", False)
            other = experiment_pb2.ConcludeExperimentRequest(name="dispatch", base_revision=3, winner="rules")
            requests = (
                other,
                experiment_pb2.PauseExperimentRequest(name="dispatch", base_revision=3),
                experiment_pb2.SetStrategyRequest(name="dispatch", base_revision=3, weights={"xgb": 1}),
                experiment_pb2.StopRampRequest(name="dispatch", base_revision=3),
            )
            for request in requests:
                code, field, told = await hub.refused(request)
                assert (code, field) == (PRECONDITION, "name")
                assert "undo that first" in told
            won.base_revision = 3
            assert (await hub.ask(won)).experiment.revision == 3
            undone = await hub.ask(experiment_pb2.UndoExperimentRequest(name="dispatch", base_revision=3))
            assert (undone.experiment.winner, undone.experiment.paused) == ("", True)
            decided = await hub.ask(experiment_pb2.DecideRequest(family="dispatch", unit_id="u"))
            assert decided.assignment.arm == "rules"
    audit = [line for line in lines if line["event"] == "experiment changed"]
    assert [line["changes"] for line in audit] == [
        ["created"],
        ["paused"],
        ["resumed", "concluded: xgb won"],
        ["paused", "reopened: xgb no longer won"],
    ]
    assert (audit[2]["who"], audit[2]["why"], audit[2]["version"]) == ("default", "it is better", 3)


async def test_history_comes_in_pages_with_its_bounds(tmp_path: Path, url: str) -> None:
    """Newest first; a page over its bound is refused with its field."""
    async with control(tmp_path, url) as hub:
        for revision in range(1, 6):
            await hub.toggle(revision)
        ask = experiment_pb2.ListRevisionsRequest
        page = (await hub.ask(ask(name="dispatch", before_revision=5, limit=2))).revisions
        assert [one.revision for one in page] == [4, 3]
        assert all(one.at_unix_us > 0 and one.changes and one.HasField("experiment") for one in page)
        for request, field in (
            (ask(name="dispatch", limit=1001), "limit"),
            (ask(name="dispatch", limit=-1), "limit"),
            (ask(name="dispatch", before_revision=-1), "before_revision"),
            (ask(name="n" * 1025), "name"),
            (ask(name="n\0"), "name"),
            (experiment_pb2.ListLayerRevisionsRequest(name="n\0"), "name"),
            (experiment_pb2.ListLayerRevisionsRequest(name="n", limit=1001), "limit"),
        ):
            assert (await hub.refused(request))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_what_no_database_can_hold_is_the_callers_fault(tmp_path: Path, url: str) -> None:
    """Not an outage of the database, which would be told to operators and invite the caller to try again."""
    async with control(tmp_path, url) as hub:
        for request, field in (
            (experiment_pb2.UndoExperimentRequest(name="dispatch", base_revision=2**63 - 1), "base_revision"),
            (experiment_pb2.UndoExperimentRequest(name="d\0", base_revision=1), "name"),
            (experiment_pb2.DeleteExperimentRequest(name="d\0", base_revision=1), "name"),
            (experiment_pb2.DeleteLayerRequest(name="d\0", base_revision=1), "name"),
        ):
            assert (await hub.refused(request))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, field)
