"""What turnout.yaml may say about failures, overload and tenants."""

from __future__ import annotations

import pytest

from services.runtime.config import ConfigError, parse_config

HEAD = "families:\n  dispatch:\n    variants:\n      a: {addresses: ['h:1']}\n      b: {addresses: ['h:2']}\n"


def test_the_defaults_are_those_of_the_documentation() -> None:
    """5 in a row, half of 20 in 10 s, 1 to 30 s; 4 to 4 096 calls; nothing that changes who answers."""
    family = parse_config(HEAD, "f").families["dispatch"]
    policy, breaker, limit = family.policy, family.policy.breaker, family.policy.concurrency
    assert (breaker.failures_in_a_row, breaker.share, breaker.fewest, breaker.window_seconds) == (5, 0.5, 20, 10.0)
    assert (breaker.first_open_seconds, breaker.longest_open_seconds, breaker.slow_ms) == (1.0, 30.0, None)
    assert (limit.lowest, limit.highest) == (4, 4096)
    assert (policy.fallback_arms, policy.hedge, policy.min_confidence) == ((), False, 0.0)
    assert (policy.outside_training, policy.critical_alert, family.critical) == ("serve", "serve", False)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("{fallback_arms: [c]}", "variants has no 'c'"),
        ("{min_confidence: 1.1}", "must be at most 1"),
        ("{outside_training: maybe}", "'serve' or 'rules'"),
        ("{breaker: {first_open_seconds: 5, longest_open_seconds: 1}}", "longest_open_seconds"),
        ("{concurrency: {lowest: 10, first: 5}}", "must not decrease"),
        ("{hedging: true}", "extra inputs"),
    ],
)
def test_a_wrong_policy_is_refused_with_its_line(policy: str, expected: str) -> None:
    """The sentence names the field and the limit."""
    with pytest.raises(ConfigError, match=expected) as refused:
        parse_config(f"{HEAD}    policy: {policy}\n", "f")
    assert str(refused.value).startswith("f:6:")


def test_a_next_arm_and_the_rates_of_a_tenant_are_read() -> None:
    """Periods in seconds."""
    tenants = "tenants:\n  t:\n    token_sha256: " + "a" * 64 + "\n    rate_limits: [{decisions: 1000, per: hour}]\n"
    config = parse_config(f"{HEAD}    policy: {{fallback_arms: [b]}}\n{tenants}", "f")
    assert config.families["dispatch"].policy.fallback_arms == ("b",)
    (rate,) = config.tenants["t"].rate_limits
    assert (rate.decisions, rate.seconds) == (1000, 3600.0)
