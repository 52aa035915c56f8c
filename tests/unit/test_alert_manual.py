"""What the manual says of alerts is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from monitoring.alerts.kinds import DEFAULT_RULES, AlertType, Severity
from monitoring.settings.store import rules_of
from services.runtime.monitoring_config import MonitoringSettings

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "alerts.md").read_text()


def test_the_manuals_configuration_is_one() -> None:
    """The first YAML block is a section that turnout.yaml may have; its rules take effect."""
    block = re.search(r"```yaml\n(monitoring:.*?)```", MANUAL, re.DOTALL)
    assert block is not None
    settings = MonitoringSettings.model_validate(yaml.safe_load(block[1])["monitoring"])
    assert len(settings.handlers) == 6
    rules = rules_of(settings)
    assert (rules[AlertType.HIGH_LATENCY].severity, rules[AlertType.HIGH_LATENCY].for_seconds) == (Severity.LOW, 600)
    assert {kind: rule for kind, rule in rules.items() if rule != DEFAULT_RULES[kind]}.keys() == {
        AlertType.HIGH_LATENCY
    }
    assert settings.thresholds_of("dispatch").accuracy == 0.90


def test_the_manuals_severities_are_those_of_the_rules() -> None:
    """Each type stands in the row of the severity that it begins with, and in no other."""
    for severity in (Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM):
        row = re.search(rf"^\| {severity.word} \| {severity.priority} \|[^|]*\|([^|]*)\|$", MANUAL, re.MULTILINE)
        assert row is not None
        said = {name.strip() for name in row[1].split(",")}
        assert said == {kind.value for kind, rule in DEFAULT_RULES.items() if rule.severity is severity}
