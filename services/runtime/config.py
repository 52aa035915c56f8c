"""turnout.yaml: one file for everything. Read whole, checked whole, or refused with the line at fault."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from services.runtime.experiment import Experiment, FamilyName, Frozen, Layer, Name
from services.runtime.experiment_set import SetError, check_set
from services.runtime.field_paths import sentence
from services.runtime.monitoring_config import MonitoringSettings
from services.runtime.policy import Policy, RateLimitList
from services.runtime.yaml_tree import compose

MAX_BYTES: Final = 1 << 20
MAX_PORT: Final = 65_535
MAX_EXPERIMENTS: Final = 10_000
NO_OPERATORS: Final = frozenset({"default", "turnout.yaml"})
"""What stands in histories where no credential was asked for, and where the file made the change."""
STRATEGIES: Final = ("random", "weighted", "round_robin", "time")


def _port_exists(address: str) -> str:
    if not address.startswith("unix:") and int(address.rpartition(":")[2]) > MAX_PORT:
        raise ValueError(f"a port is at most {MAX_PORT}")
    return address


def _known_database(url: SecretStr) -> SecretStr:
    if url.get_secret_value() and not re.match(r"(sqlite:///.|postgresql(\+psycopg)?://)", url.get_secret_value()):
        # The text itself is not repeated: a password may stand in it.
        raise ValueError("a database is sqlite:////PATH or postgresql://USER:PASSWORD@HOST/NAME")
    return url


def _a_path(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path holds no NUL")
    return path


Address = Annotated[
    str,
    Field(pattern=r"^(unix:/?[^\s]{1,200}|[A-Za-z0-9_.\-\[\]:]{1,253}:\d{1,5})$"),
    AfterValidator(_port_exists),
]
TcpAddress = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_.\-\[\]:]{1,253}:\d{1,5}$"),
    AfterValidator(_port_exists),
]


HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-]{1,253}$")]


class ConfigError(Exception):
    """The file is wrong; the text says where (file:line) and what to do, and is safe to show."""


class Variant(Frozen):
    """Where a variant is served: by our own process from `bento`, or by any server at `addresses`."""

    bento: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*:[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = None
    addresses: tuple[Address, ...] = Field(default=(), max_length=64)
    scale_to_zero: bool = False
    """Whether having no backend is usual: the rules answer while one wakes, and say so."""
    protocol: Literal["turnout", "open_inference"] = "turnout"
    """What the servers at `addresses` speak: our own stream, or ModelInfer of the Open Inference Protocol."""
    model: str = Field(default="", max_length=128)
    """With open_inference: the model's name there."""
    output: str = Field(default="", max_length=128)
    """With open_inference: the output tensor that holds one number a row; empty takes the only one."""

    @model_validator(mode="after")
    def _somewhere(self) -> Variant:
        if self.protocol == "open_inference" and not (self.addresses and self.model):
            raise ValueError("a variant with protocol open_inference needs addresses and a model")
        if self.protocol != "open_inference" and (self.model or self.output):
            raise ValueError("model and output go with protocol: open_inference, and only with it")
        if self.bento is None and not self.addresses:
            raise ValueError("a variant needs a bento (exact tag, name:version) or addresses")
        return self


class FamilyConfig(Frozen):
    """How a family is served."""

    deadline_ms: int = Field(default=500, ge=1, le=5000)
    critical: bool = False
    """Whether its calls are answered even when the router has more than it can take; those of others are refused."""
    policy: Policy = Policy()
    variants: dict[Name, Variant] = Field(default_factory=dict, max_length=64)

    @field_validator("variants")
    @classmethod
    def _rules_are_given(cls, variants: dict[str, Variant]) -> dict[str, Variant]:
        if "rules" in variants:
            raise ValueError("'rules' is always there and cannot be configured")
        return variants

    @model_validator(mode="after")
    def _next_arms_exist(self) -> FamilyConfig:
        for variant in self.policy.fallback_arms:
            if variant not in self.variants:
                raise _at(("policy", "fallback_arms"), f"variants has no {variant!r}")
        return self


class Listen(Frozen):
    """Addresses of a process; port 0 takes a free one, which is printed."""

    grpc: Address
    metrics: TcpAddress
    """Over HTTP, so never a unix socket."""


class RouterConfig(Listen):
    """The router."""

    grpc: Address = "127.0.0.1:8001"
    metrics: TcpAddress = "127.0.0.1:8002"
    reflection: bool = False
    max_concurrent_calls: int = Field(default=1024, ge=1, le=100_000)
    wait_for_commit: bool = False
    """Answer only when the decision is on stable storage; adds the group commit's few milliseconds."""
    journal_max_bytes: int = Field(default=4 << 30, ge=64 << 20, le=1 << 50)
    """Bound of the journal on disk while the ledger is away; beyond it records wait in memory, up to 64 MiB, and what
    does not fit there is counted as set aside."""
    recent_decisions: int = Field(default=50_000, ge=1000, le=10_000_000)
    """Decisions kept in memory to answer a repeated id and to know an outcome's decision."""


class RetentionConfig(Frozen):
    """How long the ledger keeps what; windows of days are kept for ever."""

    raw_days: int = Field(default=90, ge=30, le=3650)
    """Days after which a decision and its outcome are removed."""
    max_decisions: int = Field(default=0, ge=0, le=10**12)
    """Decisions kept at most, the oldest go first, even those that wait for outcomes; 0: no bound."""
    max_bytes: int = Field(default=0, ge=0, le=1 << 50)
    """About how many bytes decisions take at most, likewise; 0: no bound."""
    minute_days: int = Field(default=2, ge=1, le=30)
    """Days for which totals are kept by the minute."""
    hour_days: int = Field(default=90, ge=2, le=3650)
    """Days for which totals and features are kept by the hour."""
    feature_minute_hours: int = Field(default=6, ge=2, le=720)
    """Hours for which features are kept by the minute."""


class HubConfig(Listen):
    """The hub."""

    grpc: Address = "127.0.0.1:8003"
    metrics: TcpAddress = "127.0.0.1:8004"
    http: TcpAddress = "127.0.0.1:8000"
    """JSON, and the OpenAPI document."""
    http_hosts: tuple[HostName, ...] = Field(default=(), max_length=16)
    """Names by which browsers and programs reach it, besides those of loopback; others are refused."""
    database_url: Annotated[SecretStr, AfterValidator(_known_database)] = SecretStr("")
    """`sqlite:////PATH` or `postgresql://USER:PASSWORD@HOST/NAME`; empty: a SQLite file under `home`."""
    retention: RetentionConfig = RetentionConfig()


class Tenant(Frozen):
    """A tenant and the SHA-256, hexadecimal, of its bearer token."""

    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rate_limits: RateLimitList = ()
    """All of these hold at each router; decisions over them are refused."""
    max_concurrent_calls: int | None = Field(default=None, ge=1, le=100_000)
    """Calls that may be under way at each router; more are refused. None: no bound but the router's own."""


class Operator(Frozen):
    """Somebody who may speak to the hub, and the SHA-256, hexadecimal, of their bearer token."""

    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Config(Frozen):
    """The whole file."""

    home: Annotated[Path, AfterValidator(_a_path)] = Path(".turnout")
    router: RouterConfig = RouterConfig()
    hub: HubConfig = HubConfig()
    monitoring: MonitoringSettings = MonitoringSettings()
    """The first settings of monitoring; see `services.runtime.monitoring_config`."""
    tenants: dict[Name, Tenant] = Field(default_factory=dict, max_length=10_000)
    """Empty: no credential is asked for, everybody is tenant "default", and only loopback is listened on."""
    operators: dict[Name, Operator] = Field(default_factory=dict, max_length=1_000)
    """Who may speak to the hub; a name stands in the history of what its token changed. Empty: the hub asks for no
    credential, everybody is "default", and only loopback is listened on."""
    families: dict[FamilyName, FamilyConfig]
    experiments: dict[Name, Experiment] = Field(default_factory=dict, max_length=MAX_EXPERIMENTS)
    """By name; a definition without `family` is the main experiment of the family that is called like it."""
    layers: dict[Name, Layer] = Field(default_factory=dict, max_length=MAX_EXPERIMENTS)

    @field_validator("experiments", mode="before")
    @classmethod
    def _named(cls, experiments: object) -> object:
        if not isinstance(experiments, dict):
            return experiments
        return {
            name: {"family": name, **given, "name": name} if isinstance(given, dict) else given
            for name, given in experiments.items()
        }

    @model_validator(mode="after")
    def _experiments_fit(self) -> Config:
        for name, experiment in self.experiments.items():
            if experiment.family not in self.families:
                raise _at(("experiments", name), f"families has no {experiment.family!r}")
            variants = self.families[experiment.family].variants
            for arm_name, arm in experiment.arms.items():
                if arm.variant != "rules" and arm.variant not in variants:
                    message = f"families.{experiment.family} has no {arm.variant!r}"
                    raise _at(("experiments", name, "arms", arm_name), message)
            for variant in experiment.shadows:
                if variant not in variants:
                    message = f"families.{experiment.family} has no {variant!r}"
                    raise _at(("experiments", name, "shadows", variant), message)
        try:
            check_set(self.experiments, self.layers)
        except SetError as error:
            raise _at(error.path, str(error)) from error
        return self

    @model_validator(mode="after")
    def _references(self) -> Config:
        if not self.tenants:
            for process, address in (("router", self.router.grpc), ("hub", self.hub.grpc)):
                if not is_loopback(address):
                    raise _at((process, "grpc"), f"{address} is open to others: declare tenants with tokens first")
        for name, address in (("grpc", self.hub.grpc), ("http", self.hub.http)):
            if not self.operators and not is_loopback(address):
                raise _at(("hub", name), f"{address} is open to others: declare operators with tokens first")
        return self

    @model_validator(mode="after")
    def _a_token_names_one(self) -> Config:
        owners: dict[str, tuple[str, str]] = {}
        for section, holders in (("tenants", self.tenants), ("operators", self.operators)):
            for name, holder in holders.items():
                # Who calls would depend on the order of the file, and a caller's token would steer experiments.
                place = (section, name)
                if (other := owners.setdefault(holder.token_sha256, place)) != place:
                    kind = other[0].removesuffix("s")
                    raise _at(place, f"{kind} {other[1]!r} has the same token; give each its own")
        return self

    @model_validator(mode="after")
    def _operators_are_persons(self) -> Config:
        for name in sorted(NO_OPERATORS & self.operators.keys()):
            raise _at(("operators", name), f"{name!r} stands for something else in histories; name it otherwise")
        return self


def _at(path: tuple[str, ...], message: str) -> PydanticCustomError:
    """Gives an error about a place deeper in the file than the model that found it."""
    return PydanticCustomError("reference", "{text}", {"text": message, "path": path})


def is_loopback(address: str) -> bool:
    """Tells whether an address can be reached from this machine only; a name that merely begins like one cannot."""
    return re.match(r"unix:|(127(\.\d{1,3}){3}|localhost|\[::1\]):\d+$", address) is not None


def read_config(path: Path) -> Config:
    """Reads and checks a file whole. A relative `home` counts from the file's folder.

    Raises:
        ConfigError: names the line at fault.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{path} is over {MAX_BYTES} bytes")
    config = parse_config(text, str(path))
    return config.model_copy(update={"home": (path.parent / config.home).resolve()})


def parse_config(text: bytes | str, name: str) -> Config:
    """Checks the text of a file called `name`; see `read_config`."""
    try:
        root = compose(text)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{where}: not valid YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line = 1 + (before.count("\n") if isinstance(before, str) else before.count(b"\n"))
        raise ConfigError(f"{name}:{line}: not valid YAML in UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"{name}:1: nested too deep") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # Constructors of tagged or date-like scalars raise whatever their parsing raises.
        where = f"{name}:{_unreadable_line(text)}"
        raise ConfigError(f"{where}: a value here is not what its YAML type asks for") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{name}:1: the file must be a mapping with a `families` section")
    _refuse_repeated_keys(root, name)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_sentence(error, root, name)) from error


def _unreadable_line(text: bytes | str) -> int:
    """Gives the line, from 1, of the first scalar that cannot be made into a value."""
    constructor = yaml.SafeLoader("")
    stack: list[Any] = [yaml.compose(text, Loader=yaml.SafeLoader)]
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            try:
                constructor.construct_object(node)
            except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError):
                return int(node.start_mark.line) + 1
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(reversed(node.value))
        elif isinstance(node, yaml.MappingNode):
            stack.extend(part for pair in reversed(node.value) for part in reversed(pair))
    return 1


def _refuse_repeated_keys(node: Any, name: str) -> None:
    stack, seen_nodes = [node], set()
    while stack:
        current = stack.pop()
        if id(current) in seen_nodes:
            continue
        seen_nodes.add(id(current))
        if isinstance(current, yaml.MappingNode):
            keys = set()
            for key, value in current.value:
                if key.value in keys and isinstance(key, yaml.ScalarNode):
                    raise ConfigError(f"{name}:{key.start_mark.line + 1}: {key.value!r} stands here a second time")
                if isinstance(key, yaml.ScalarNode):
                    keys.add(key.value)
                stack.append(value)
        elif isinstance(current, yaml.SequenceNode):
            stack.extend(current.value)


def _sentence(error: ValidationError, root: Any, name: str) -> str:
    first = error.errors(include_url=False)[0]
    path = _place((*first["loc"], *first.get("ctx", {}).get("path", ())))
    message = sentence(first)
    where = ".".join(str(part) for part in path)
    return f"{name}:{_line(root, path)}: {where}: {message}" if where else f"{name}:{_line(root, path)}: {message}"


def _place(location: tuple[int | str, ...]) -> list[int | str]:
    """Takes out of an error's place what does not stand in the file: the strategy's tag and the mark of a key."""
    before = (None, *location)
    return [
        part
        for previous, part in zip(before, location, strict=False)
        if part != "[key]" and not (previous == "strategy" and part in STRATEGIES)
    ]


def _line(node: Any, path: list[int | str]) -> int:
    """Follows a validation error's path through the YAML tree as far as it goes; gives the line there, from 1."""
    line = node.start_mark.line + 1
    for part in path:
        found = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, found = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
            line = found.start_mark.line + 1
        if found is None:
            break
        node = found
    return int(line)
