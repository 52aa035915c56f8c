"""`turnout split results`: arms beside shadows, from records in a real ledger to what an operator reads."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from prometheus_client import CollectorRegistry

from services.cli.main import run
from services.hub.bootstrap import running
from tests.integration.control_under_test import CONFIG
from turnout.v1 import ledger_pb2, prediction_pb2

NOW_US = 1_790_000_000_000_000


def records(number: int) -> list[bytes]:
    """A decision of the arm xgb, its outcome, and what the shadow lgb answered: nothing to every fourth one."""
    key: dict[str, Any] = {"decision_id": f"d-{number}", "tenant": "default"}
    failed = number % 4 == 3
    prediction = prediction_pb2.PredictResponse(
        decision_id=key["decision_id"],
        value=0.75,
        confidence=0.5,
        served_variant="xgb",
        assignment=prediction_pb2.Assignment(arm="xgb", experiment="dispatch", propensity=0.5, revision=1),
    )
    decision = ledger_pb2.Decision(
        **key, family="dispatch", assigned_at_unix_us=NOW_US, prediction=prediction, latency_us=2000
    )
    shadow = ledger_pb2.ShadowAnswer(
        **key,
        family="dispatch",
        experiment="dispatch",
        variant="lgb",
        assigned_at_unix_us=NOW_US,
        value=0.0 if failed else 0.5,
        confidence=0.0 if failed else 1.0,
        latency_us=1000,
        failure=prediction_pb2.FALLBACK_REASON_TIMEOUT if failed else prediction_pb2.FALLBACK_REASON_UNSPECIFIED,
        agrees=number % 4 == 0,
        told_value=0.75,
        told_confidence=0.5,
        served_variant="xgb",
        told_latency_us=2000,
    )
    outcome = ledger_pb2.Outcome(**key, value=1.0, occurred_at_unix_us=NOW_US, recorded_at_unix_us=NOW_US)
    return [
        ledger_pb2.JournalRecord(decision=decision).SerializeToString(),
        ledger_pb2.JournalRecord(shadow_answer=shadow).SerializeToString(),
        ledger_pb2.JournalRecord(outcome=outcome).SerializeToString(),
    ]


async def test_an_operator_reads_how_a_shadow_would_have_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Agreement, failures and errors against outcomes, beside what callers were told to the same rows."""
    (tmp_path / "turnout.yaml").write_text(CONFIG)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    batch = [record for number in range(8) for record in records(number)]
    async with (
        running(tmp_path / "turnout.yaml", registry=CollectorRegistry(), now_us=lambda: NOW_US) as hub,
        grpc.aio.insecure_channel(hub.server.address) as channel,
    ):
        append: Any = channel.unary_unary(
            "/turnout.v1.LedgerService/AppendRecords",
            request_serializer=ledger_pb2.AppendRecordsRequest.SerializeToString,
            response_deserializer=ledger_pb2.AppendRecordsResponse.FromString,
        )
        for sent in (batch, batch):
            reply = await append(ledger_pb2.AppendRecordsRequest(records=sent, router="r"), timeout=10)
        assert (reply.stored, reply.duplicates, reply.set_aside) == (0, len(batch), 0)

        async def said(*arguments: str) -> str:
            capsys.readouterr()
            assert await asyncio.to_thread(run, [*arguments, "--hub", hub.server.address]) == 0
            return capsys.readouterr().out

        async def told(*arguments: str) -> str:
            return await said("split", "results", "dispatch", *arguments)

        found = json.loads(await told("-o", "json"))
        assert found["decisions"] == 8
        assert found["arms"]["xgb"]["mean_absolute_error"] == 0.25
        (shadow,) = found["shadows"]
        assert (shadow["experiment"], shadow["variant"]) == ("dispatch", "lgb")
        assert (shadow["answered"], shadow["failures"]) == (6, {"timeout": 2})
        assert shadow["agreement"] == pytest.approx(1 / 3)
        assert (shadow["outcomes"], shadow["mean_absolute_error"]) == (6, 0.5)
        assert shadow["told_mean_absolute_error"] == 0.25
        assert (shadow["p50_ms"], shadow["p99_ms"]) == (1.0, 1.0)
        table = await told()
        assert "beside what callers were told" in table
        assert "33.3%" in table
        assert "shadows" not in await told("--since", "2099-01-01T00:00")

        html = tmp_path / "report.html"
        (shadow,) = json.loads(await said("report", "dispatch", "-o", "json", "--html", str(html)))["shadows"]
        assert (shadow["answered"], shadow["failures"], shadow["outcomes"]) == (6, {"timeout": 2}, 6)
        assert (shadow["latency_p50_ms"], shadow["latency_p99_ms"]) == (1.0, 1.0)
        # 0.5 of 6 and 0.75 of 6, all of them 1: both are right, and both are as far from it as they say.
        assert shadow["measures"]["brier"]["value"] == 0.25
        assert shadow["told_measures"]["brier"]["value"] == 0.0625
        assert "6 copies answered; 2 not (2 timeout); 33.3% come to the same" in html.read_text(encoding="utf-8")
        text = " ".join((await said("report", "dispatch")).split())
        assert "Shadow lgb of dispatch: 6 copies answered; 2 not (2 timeout)" in text
        assert json.loads(await said("report", "dispatch", "--arm", "xgb", "-o", "json"))["shadows"] == []
        assert json.loads(await said("report", "dispatch", "--tenant", "nobody", "-o", "json"))["shadows"] == []
