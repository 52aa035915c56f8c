"""Rules, dashboard and alerts against the real promtool, Prometheus and Alertmanager."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.openmetrics import exposition as openmetrics

from monitoring.alerts.conditions import Verdict
from monitoring.alerts.handlers.deliveries import Deliveries
from monitoring.alerts.kinds import AlertType, Rule, Severity
from monitoring.alerts.metrics import AlertMetrics
from monitoring.ledger.appended import Appended
from monitoring.ledger.metrics import LedgerMetrics
from monitoring.metrics import MAX_LABEL_SETS, MonitoringMetrics
from router.accounts import JournalStatus
from router.metrics import AttemptKind, RouterMetrics
from router.resilience.reasons import Fallback
from services.cli.scraping import TARGETS, write_targets
from services.model_server.metrics import ModelMetrics
from services.runtime.database import open_database
from services.runtime.monitoring_config import AlertHandler
from services.runtime.transcoding.metrics import HttpMetrics
from tests.integration.alerts_under_test import Clock, a_condition, an_engine
from turnout.v1.prediction_pb2 import FALLBACK_REASON_TIMEOUT, FALLBACK_REASON_UNSPECIFIED

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "monitoring" / "rules"
DASHBOARD = ROOT / "monitoring" / "dashboards" / "turnout.json"
SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_count", "_sum"),
    "info": ("_info",),
    "gauge": ("",),
}


def program(name: str) -> str:
    """Path of a program of Debian's packages prometheus and prometheus-alertmanager."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def exported() -> set[str]:
    """Names of all series that our processes export."""
    registry = CollectorRegistry()
    RouterMetrics(registry)
    ModelMetrics(registry, clock=lambda: 0.0)
    LedgerMetrics(registry)
    AlertMetrics(registry)
    MonitoringMetrics(registry)
    return {metric.name + suffix for metric in registry.collect() for suffix in SUFFIXES[metric.type]}


def recorded() -> dict[str, str]:
    groups = yaml.safe_load((RULES / "recording.yaml").read_text())["groups"]
    return {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


def alerting() -> dict[str, str]:
    groups = yaml.safe_load((RULES / "alerting.yaml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def drawn() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def named(expression: str) -> set[str]:
    """Names of series in an expression."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", "", expression)
    bare = re.sub(r"\b(by|on|ignoring|group_left|without) *\([^)]*\)", "", bare)
    return set(re.findall(r"\b(?:[a-z_]+:)?(?:turnout|ml|ledger)_[a-z_]+(?::[a-z0-9_]+)?", bare)) | (
        {"up"} & set(re.findall(r"\w+", bare))
    )


def test_rules_load_and_do_what_their_tests_say() -> None:
    """promtool takes them, and its unit tests hold."""
    promtool = program("promtool")
    assert "SUCCESS" in run(promtool, "check", "rules", str(RULES / "recording.yaml"), str(RULES / "alerting.yaml"))
    assert "SUCCESS" in run(promtool, "test", "rules", str(RULES / "tests.yaml"))
    tested = (RULES / "tests.yaml").read_text()
    assert {name for name in alerting() if name not in tested} == set(), "an alert without a test"


def test_every_expression_names_what_is_exported() -> None:
    """Rules and panels ask for series that our processes export or that a rule records."""
    known = exported() | set(recorded()) | {"up"}
    for expression in [*recorded().values(), *alerting().values(), *drawn()]:
        assert named(expression), expression
        assert named(expression) <= known, expression


def test_the_three_names_that_development_metrics_ask_for_exist() -> None:
    """ml_predictions_total, ml_prediction_accuracy and ml_inference_duration_seconds, with their labels."""
    registry = CollectorRegistry()
    monitor, model = MonitoringMetrics(registry), ModelMetrics(registry, clock=lambda: 0.0)
    monitor.predicted("insights", "forest", "high", 2)
    monitor.accuracy("insights", "forest", 0.75)
    model.describe(family="insights", variant="forest", version="forest:1")
    model.ran(1, 4, 0.002)
    by_model = {"model_name": "insights/forest"}
    assert registry.get_sample_value("ml_predictions_total", {**by_model, "prediction": "high"}) == 2
    assert registry.get_sample_value("ml_prediction_accuracy", by_model) == 0.75
    assert registry.get_sample_value("ml_inference_duration_seconds_sum", by_model) == 0.002


def test_every_panel_of_the_dashboard_parses(tmp_path: Path) -> None:
    """Each expression is one that Prometheus takes, with Grafana's variables filled in."""
    promtool = program("promtool")
    filled = [expr.replace("$__rate_interval", "5m").replace("$family", "dispatch|delivery") for expr in drawn()]
    assert len(filled) >= 20
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(filled)]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    run(promtool, "check", "rules", str(path))
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels if panel["type"] != "row")


def busy() -> CollectorRegistry:
    """Everything that our processes export, once something of each kind has happened."""
    registry = CollectorRegistry()
    router, model = RouterMetrics(registry), ModelMetrics(registry, clock=lambda: 0.0)
    ledger, alerts, monitor = LedgerMetrics(registry), AlertMetrics(registry), MonitoringMetrics(registry)
    router.follow_admission(lambda: 10.0, lambda: 1.0)
    router.follow_journal(
        lambda: JournalStatus(started=3, stored=1, pending=1, set_aside=1, missing=0, held=0, disk_bytes=0)
    )
    for fallback in (FALLBACK_REASON_UNSPECIFIED, FALLBACK_REASON_TIMEOUT):
        router.predictions("dispatch", ("dispatch", "a", "a", fallback), 1)
    router.latency("dispatch", 0.002)
    router.refused("turnout.v1.PredictionService", 13)
    router.failed_attempt("dispatch", "a", Fallback.TIMEOUT)
    router.extra_attempt("dispatch", "a", AttemptKind.HEDGE)
    model.describe(family="dispatch", variant="a", version="1")
    model.watch_queue(lambda: 0.0)
    model.ran(1, 4, 0.002)
    ledger.appended(Appended(decisions=1, joined=1), 0.01)
    alerts.delivery("log", "delivered", 0.01)
    alerts.waiting("log", 0)
    alerts.show([], 0)
    monitor.predicted("dispatch", "a", "high", 1)
    monitor.accuracy("dispatch", "a", 0.9)
    monitor.health("model", "dispatch", 1)
    monitor.drift("dispatch", "feature", "a", "x", 0.1)
    monitor.cycle(0.1, ended_at=1.0, done=True)
    return registry


def test_every_panel_shows_something_of_a_busy_platform(tmp_path: Path) -> None:
    """Each query finds what our processes export, with the labels that it names; so does each recorded series."""
    promtool = program("promtool")
    series = []
    for metric in busy().collect():
        for sample in metric.samples:
            labels = ",".join(f'{name}="{text}"' for name, text in {"job": "turnout", **sample.labels}.items())
            rises = metric.type in {"counter", "histogram"}
            series.append({"series": f"{sample.name}{{{labels}}}", "values": "1+1x20" if rises else "1x20"})
    queries = [expr.replace("$__rate_interval", "5m").replace("$family", "dispatch") for expr in drawn()]
    expected = [{"labels": "{}", "value": 1}]
    asked = [
        {"expr": f"count({query}) > bool 0", "eval_time": "10m", "exp_samples": expected}
        for query in [*queries, *recorded()]
    ]
    rules = tmp_path / "panels.yaml"
    group = {"interval": "30s", "input_series": series, "promql_expr_test": asked}
    rules.write_text(yaml.safe_dump({"rule_files": [str(RULES / "recording.yaml")], "tests": [group]}))
    assert "SUCCESS" in run(promtool, "test", "rules", str(rules))


def test_a_platform_without_fallbacks_shows_a_share_of_zero(tmp_path: Path) -> None:
    """No data and no fallback are two things."""
    promtool = program("promtool")
    series = 'turnout_predictions_total{family="dispatch",fallback="none"}'
    expected = [{"labels": 'family:turnout_fallbacks:ratio_rate5m{family="dispatch"}', "value": 0}]
    asked = {"expr": "family:turnout_fallbacks:ratio_rate5m", "eval_time": "10m", "exp_samples": expected}
    group = {"interval": "30s", "input_series": [{"series": series, "values": "0+60x20"}], "promql_expr_test": [asked]}
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"rule_files": [str(RULES / "recording.yaml")], "tests": [group]}))
    assert "SUCCESS" in run(promtool, "test", "rules", str(rules))


def test_a_real_prometheus_finds_the_processes_of_turnout_up(tmp_path: Path) -> None:
    """The file of targets is one that Prometheus takes; a process without metrics is left out."""
    promtool = program("promtool")
    addresses = {
        "hub": {"grpc": "127.0.0.1:1", "metrics": "127.0.0.1:2"},
        "router": {"grpc": "127.0.0.1:3"},
        "dispatch/a": {"metrics": "127.0.0.1:4"},
    }
    write_targets(tmp_path, addresses)
    config = tmp_path / "prometheus.yaml"
    scrape = {"job_name": "turnout", "file_sd_configs": [{"files": [str(tmp_path / TARGETS)]}]}
    config.write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    run(promtool, "check", "config", str(config))
    found = json.loads((tmp_path / TARGETS).read_text())
    assert [(one["targets"], one["labels"]["job"], one["labels"]["process"]) for one in found] == [
        (["127.0.0.1:2"], "turnout-hub", "hub"),
        (["127.0.0.1:4"], "turnout-model-server", "dispatch/a"),
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_metrics_are_named_by_the_conventions(tmp_path: Path) -> None:
    """promtool's linter finds nothing in what the monitor and the alerts export."""
    promtool = program("promtool")
    registry = CollectorRegistry()
    AlertMetrics(registry)
    metrics = MonitoringMetrics(registry)
    metrics.predicted("dispatch", "xgb", "high", 3, "d-1")
    metrics.accuracy("dispatch", "xgb", 0.9)
    HttpMetrics(registry).answered("MonitoringService", "Health", 200, 0.01)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True, timeout=60, check=False
    )
    assert done.stderr.decode() == ""


def test_decision_ids_are_exemplars_and_labels_are_bounded() -> None:
    """OpenMetrics has an exemplar; the two thousand and first label set is counted as other."""
    registry = CollectorRegistry()
    metrics = MonitoringMetrics(registry)
    metrics.predicted("dispatch", "xgb", "high", 3, "d-1")
    metrics.predicted("dispatch", "xgb", "high", 1, "x" * 128)
    text = openmetrics.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    series = 'ml_predictions_total{model_name="dispatch/xgb",prediction="high"} 4.0 # {decision_id="d-1"} 3.0'
    assert any(line.startswith(series) for line in text.splitlines())
    for number in range(MAX_LABEL_SETS + 10):
        metrics.accuracy("f", f"v{number}", 0.5)
    samples = next(metric for metric in registry.collect() if metric.name == "ml_prediction_accuracy").samples
    assert len(samples) == MAX_LABEL_SETS + 1
    assert samples[-1].labels == {"model_name": "other"}


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.asynccontextmanager
async def a_process(*command: str, log: Path) -> AsyncIterator[None]:
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*command, stdout=file, stderr=file, cwd=log.parent)
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def last_lines(log: Path) -> str:
    return log.read_text()[-2000:]


async def until(client: httpx.AsyncClient, path: str, holds: Any, log: Path) -> Any:
    """Asks again and again until the answer is as wanted."""
    found: Any = None
    try:
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.get(path)
                    kind = answer.headers.get("content-type", "")
                    found = answer.json() if "json" in kind else answer.text
                    if answer.status_code == 200 and holds(found):
                        return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"{path}: {found}\n{last_lines(log)}")


async def test_a_drift_alert_arrives_in_a_real_alertmanager(tmp_path: Path) -> None:
    """It fires there with its labels, escalates into another severity, and is resolved when it has recovered."""
    alertmanager = program("prometheus-alertmanager")
    (port,) = free_ports(1)
    config, log = tmp_path / "alertmanager.yaml", tmp_path / "alertmanager.log"
    config.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    start = [alertmanager, f"--config.file={config}", f"--storage.path={tmp_path / 'data'}"]
    start += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    clock = Clock(time.time_ns() // 1000)
    rules = dict.fromkeys(AlertType, Rule(severity=Severity.HIGH))
    handler = {"min_severity": "info", "alertmanager": {"url": f"http://127.0.0.1:{port}"}}
    with open_database(f"sqlite:///{tmp_path / 'hub.sqlite'}") as database:
        engine = await an_engine(database, clock, rules=rules)
        deliveries = Deliveries(
            engine,
            metrics=AlertMetrics(CollectorRegistry()),
            clock=asyncio.get_running_loop().time,
            now_us=lambda: time.time_ns() // 1000,
            chance=lambda: 0.0,
        )
        async with (
            a_process(*start, log=log),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
        ):
            await until(client, "/-/ready", lambda _: True, log)
            await deliveries.configure({"am": AlertHandler.model_validate(handler)})
            await engine.observe([a_condition()])
            (found,) = await until(client, "/api/v2/alerts", lambda alerts: len(alerts) == 1, log)
            assert found["labels"] == {
                "alertname": "FeatureDrift",
                "type": "feature_drift",
                "severity": "high",
                "priority": "P1",
                "family": "dispatch",
                "feature": "distance",
            }
            assert found["annotations"]["summary"] == "it moved"
            assert found["status"]["state"] == "active"
            await engine.observe([a_condition(severity=Severity.CRITICAL)])
            await until(
                client, "/api/v2/alerts", lambda alerts: [a["labels"]["severity"] for a in alerts] == ["critical"], log
            )
            await engine.observe([a_condition(Verdict.CLEAR)])
            await until(client, "/api/v2/alerts", lambda alerts: alerts == [], log)
            await deliveries.close()


async def test_a_real_prometheus_loads_the_rules_and_scrapes_us(tmp_path: Path) -> None:
    """Every rule is healthy, our metrics arrive with exemplars, and a rule on them fires."""
    prometheus = program("prometheus")
    (port,) = free_ports(1)
    registry = CollectorRegistry()
    AlertMetrics(registry)
    metrics = MonitoringMetrics(registry)
    metrics.predicted("dispatch", "xgb", "high", 3, "d-1")
    metrics.accuracy("dispatch", "xgb", 0.5)
    web, thread = start_http_server(0, "127.0.0.1", registry)
    config, log = tmp_path / "prometheus.yaml", tmp_path / "prometheus.log"
    targets = [{"targets": [f"127.0.0.1:{web.server_port}"]}]
    scrape = {"job_name": "turnout-hub", "static_configs": targets, "scrape_interval": "1s"}
    files = [str(RULES / "recording.yaml"), str(RULES / "alerting.yaml")]
    content = {"global": {"evaluation_interval": "1s"}, "rule_files": files, "scrape_configs": [scrape]}
    config.write_text(yaml.safe_dump(content))
    start = [prometheus, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    start += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage"]
    try:
        async with (
            a_process(*start, log=log),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
        ):
            await until(client, "/-/ready", lambda _: True, log)
            await until(client, "/api/v1/query?query=ml_predictions_total", lambda a: a["data"]["result"], log)

            def all_evaluated(answer: Any) -> bool:
                rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
                return bool(rules) and all(rule["health"] == "ok" for rule in rules)

            await until(client, "/api/v1/alerts", lambda a: a["data"]["alerts"], log)
            evaluated = await until(client, "/api/v1/rules?type=alert", all_evaluated, log)
            rules = [rule for group in evaluated["data"]["groups"] for rule in group["rules"]]
            firing = {rule["name"] for rule in rules if rule["state"] in {"pending", "firing"}}
            assert {"TurnoutLowAccuracy", "TurnoutMonitoringStale"} <= firing
            path = (
                "/api/v1/query_exemplars?query=ml_predictions_total&start=2000-01-01T00:00:00Z&end=2100-01-01T00:00:00Z"
            )
            exemplars = await until(client, path, lambda answer: answer["data"], log)
            assert exemplars["data"][0]["exemplars"][0]["labels"] == {"decision_id": "d-1"}
    finally:
        web.shutdown()
        web.server_close()
        thread.join()
