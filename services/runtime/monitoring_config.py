"""The section `monitoring` of turnout.yaml, which is also the form of the settings that may change at run time.

Names and units are those of `turnout.v1.MonitoringSettings`, so that a file, a call and the history say the same. What
is None is not set: the manual's value holds, or the family's own declaration where that says more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from services.runtime.experiment import FamilyName, Frozen, Name

AlertTypeName = Literal[
    "prediction_drift",
    "feature_drift",
    "concept_drift",
    "performance_degradation",
    "data_quality",
    "high_fallback_rate",
    "low_confidence",
    "high_latency",
    "high_error_rate",
    "model_unavailable",
    "sample_ratio_mismatch",
    "stale_model",
    "retraining_failed",
    "database_unavailable",
    "monitoring_failed",
]
SeverityName = Literal["info", "low", "medium", "high", "critical"]
Rate = Annotated[float, Field(ge=0, le=1)]
DAY_SECONDS: Final = 86_400
WEEK_SECONDS: Final = 604_800
MAX_HANDLERS: Final = 16
DEFAULT_CYCLE_SECONDS: Final = 300
_SEVERITIES: Final = get_args(SeverityName)
_VARIABLE: Final = r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$"
_ADDRESS: Final = re.compile(r"[^\s@<>,;\x00-\x1f\x7f]{1,64}@[A-Za-z0-9.\-\[\]:]{1,255}")
Variable = Annotated[str, Field(pattern=_VARIABLE)]
FilePath = Annotated[str, Field(pattern=r"^(/[^\x00]{1,1000})?$")]


class ThresholdValues(Frozen):
    """Limits as they hold, with the manual's values."""

    fallback_rate: Rate = 0.05
    fallback_rate_unhealthy: Rate = 0.25
    low_confidence: Rate = 0.6
    low_confidence_rate: Rate = 0.05
    null_rate: Rate = 0.02
    outlier_rate: Rate = 0.03
    schema_violation_rate: Rate = 0.0
    latency_p95_ms: float = Field(default=50.0, gt=0, le=60_000)
    error_rate: Rate = 0.10
    accuracy: Rate = 0.70
    accuracy_critical: Rate = 0.60
    f1: Rate = 0.60
    stale_days: float = Field(default=45.0, gt=0, le=3650)
    drift_effect: Rate = 0.1
    false_alarm_rate: float = Field(default=0.05, gt=0, le=0.5)
    min_decisions: int = Field(default=200, ge=10, le=1_000_000)

    @model_validator(mode="after")
    def _worse_is_further(self) -> ThresholdValues:
        if self.accuracy_critical > self.accuracy:
            raise ValueError("accuracy_critical must not be above accuracy")
        if self.fallback_rate_unhealthy < self.fallback_rate:
            raise ValueError("fallback_rate_unhealthy must not be below fallback_rate")
        return self


class Thresholds(Frozen):
    """Limits that somebody set."""

    fallback_rate: Rate | None = None
    fallback_rate_unhealthy: Rate | None = None
    low_confidence: Rate | None = None
    low_confidence_rate: Rate | None = None
    null_rate: Rate | None = None
    outlier_rate: Rate | None = None
    schema_violation_rate: Rate | None = None
    latency_p95_ms: float | None = Field(default=None, gt=0, le=60_000)
    error_rate: Rate | None = None
    accuracy: Rate | None = None
    accuracy_critical: Rate | None = None
    f1: Rate | None = None
    stale_days: float | None = Field(default=None, gt=0, le=3650)
    drift_effect: Rate | None = None
    false_alarm_rate: float | None = Field(default=None, gt=0, le=0.5)
    min_decisions: int | None = Field(default=None, ge=10, le=1_000_000)


class AlertRule(Frozen):
    """How alerts of one type behave, where it is not as the manual says."""

    disabled: bool | None = None
    for_seconds: int | None = Field(default=None, ge=0, le=DAY_SECONDS)
    recover_seconds: int | None = Field(default=None, ge=0, le=DAY_SECONDS)
    severity: SeverityName | None = None
    escalate_seconds: int | None = Field(default=None, ge=0, le=WEEK_SECONDS)
    escalate_to: SeverityName | None = None
    hold_down_seconds: int | None = Field(default=None, ge=0, le=WEEK_SECONDS)
    flap_half_life_seconds: int | None = Field(default=None, ge=1, le=DAY_SECONDS)
    flap_limit: int | None = Field(default=None, ge=2, le=100)


class LogHandler(Frozen):
    """A line in the hub's log."""


class WebhookHandler(Frozen):
    """A POST to a URL; where the URL itself is the secret it comes from the environment or a file."""

    url: str = ""
    url_env: Variable = ""
    url_file: FilePath = ""
    secret_env: Variable = ""
    secret_file: FilePath = ""
    format: Literal["turnout", "slack"] = "turnout"

    @model_validator(mode="after")
    def _one_place(self) -> WebhookHandler:
        if sum(map(bool, (self.url, self.url_env, self.url_file))) != 1:
            raise ValueError("a webhook needs exactly one of url, url_env and url_file")
        if self.secret_env and self.secret_file:
            raise ValueError("give secret_env or secret_file, not both")
        if self.url:
            check_url(self.url)
        return self


class EmailHandler(Frozen):
    """An e-mail over SMTP."""

    host: str = Field(pattern=r"^[A-Za-z0-9.\-\[\]:]{1,253}$")
    port: int = Field(default=0, ge=0, le=65_535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: str
    recipients: tuple[str, ...] = Field(min_length=1, max_length=64)
    user: str = Field(default="", max_length=256)
    password_env: Variable = ""
    password_file: FilePath = ""
    ca_file: FilePath = ""

    @field_validator("sender")
    @classmethod
    def _an_address(cls, sender: str) -> str:
        return _address(sender)

    @field_validator("recipients")
    @classmethod
    def _addresses(cls, recipients: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_address, recipients))

    @model_validator(mode="after")
    def _a_whole_login(self) -> EmailHandler:
        if bool(self.user) != bool(self.password_env or self.password_file):
            raise ValueError("a login needs user and one of password_env and password_file")
        if self.password_env and self.password_file:
            raise ValueError("give password_env or password_file, not both")
        if self.user and self.security == "none":
            raise ValueError("security: none would send the password in the clear: use starttls or tls")
        return self

    @property
    def port_in_use(self) -> int:
        """The port, where none is given the one that belongs to `security`."""
        return self.port or {"tls": 465, "starttls": 587, "none": 25}[self.security]


class AlertmanagerHandler(Frozen):
    """Prometheus Alertmanager's API, version 2."""

    url: str
    token_env: Variable = ""
    token_file: FilePath = ""

    @model_validator(mode="after")
    def _usable(self) -> AlertmanagerHandler:
        if self.token_env and self.token_file:
            raise ValueError("give token_env or token_file, not both")
        check_url(self.url)
        return self


class PythonHandler(Frozen):
    """A Python callable."""

    callable: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,200}:[A-Za-z_][A-Za-z0-9_]{0,100}$")


Kind = LogHandler | WebhookHandler | EmailHandler | AlertmanagerHandler | PythonHandler


class AlertHandler(Frozen):
    """Who hears of alerts, and of which. Exactly one kind."""

    min_severity: SeverityName = "medium"
    types: tuple[AlertTypeName, ...] = Field(default=(), max_length=32)
    families: tuple[FamilyName, ...] = Field(default=(), max_length=256)
    repeat_seconds: int = Field(default=0, ge=0, le=WEEK_SECONDS)
    timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    give_up_seconds: int = Field(default=DAY_SECONDS, ge=60, le=WEEK_SECONDS)
    log: LogHandler | None = None
    webhook: WebhookHandler | None = None
    email: EmailHandler | None = None
    alertmanager: AlertmanagerHandler | None = None
    python: PythonHandler | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> AlertHandler:
        if sum(kind is not None for kind in self._kinds()) != 1:
            raise ValueError("a handler is exactly one of log, webhook, email, alertmanager and python")
        if 0 < self.repeat_seconds < 10:
            raise ValueError("repeat_seconds must be at least 10")
        return self

    def _kinds(self) -> tuple[Kind | None, ...]:
        return self.log, self.webhook, self.email, self.alertmanager, self.python

    @property
    def kind(self) -> Kind:
        """The kind that is set."""
        return next(kind for kind in self._kinds() if kind is not None)

    @property
    def repeats_every(self) -> int:
        """Seconds between repetitions; Alertmanager forgets what is not repeated."""
        return self.repeat_seconds or (60 if self.alertmanager else 14_400)

    @property
    def trusted_only(self) -> bool:
        """Whether it uses a secret, a file or code: a call may then change its filters and times, never this."""
        match self.kind:
            case LogHandler():
                return False
            case PythonHandler():
                return True
            case WebhookHandler() as webhook:
                return bool(webhook.url_env or webhook.url_file or webhook.secret_env or webhook.secret_file)
            case EmailHandler() as email:
                return bool(email.user or email.ca_file)
            case AlertmanagerHandler() as alertmanager:
                return bool(alertmanager.token_env or alertmanager.token_file)


class MonitoringSettings(Frozen):
    """The whole section."""

    cycle_seconds: int = Field(default=DEFAULT_CYCLE_SECONDS, ge=1, le=DAY_SECONDS)
    thresholds: Thresholds = Thresholds()
    families: Annotated[dict[FamilyName, Thresholds], Field(max_length=256)] = Field(default_factory=dict)
    rules: dict[AlertTypeName, AlertRule] = Field(default_factory=dict)
    handlers: Annotated[dict[Name, AlertHandler], Field(max_length=MAX_HANDLERS)] = Field(
        default_factory=lambda: {"log": AlertHandler(log=LogHandler(), min_severity="info")}
    )
    history_days: int = Field(default=90, ge=1, le=3650)

    @model_validator(mode="after")
    def _thresholds_agree(self) -> MonitoringSettings:
        for family in ("", *self.families):
            self.thresholds_of(family)
        return self

    def thresholds_of(self, family: str, declared: Mapping[str, float] | None = None) -> ThresholdValues:
        """Gives the limits of a family: the settings' own, else what the family declares, else the manual's.

        Args:
            family: its name.
            declared: limits that the family's declaration states, by name.
        """
        values: dict[str, float] = dict(declared or {})
        values |= self.thresholds.model_dump(exclude_none=True)
        values |= self.families.get(family, Thresholds()).model_dump(exclude_none=True)
        return ThresholdValues.model_validate(values)


def check_url(url: str) -> None:
    """Refuses what is no http(s) URL with a host, or has credentials in it.

    Raises:
        ValueError: says why, without the URL itself: a secret may stand in it.
    """
    if not re.fullmatch(r"[\x21-\x7e]{1,2000}", url):
        raise ValueError("a URL has 1 to 2 000 printable ASCII characters")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("a URL begins with http:// or https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL must not hold credentials: use a secret from the environment or a file")


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError("an e-mail address looks like ann@example.org")
    return text
