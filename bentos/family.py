"""A model family as a declaration: everything that the platform needs to know about a prediction problem.

A new family is a folder `bentos/<name>/` whose package defines `FAMILY`, and nothing more: the router, the model
server, training, packaging, the ledger and the command line are generic over it. What is declared here imports the
standard library and numpy only, so that the router can hold it lightly; variants name their trainers as text and are
imported by training alone.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

from bentos.schema import Category, Number, Schema
from bentos.thresholds import Thresholds
from services.runtime.errors import NotFound

RULES: Final = "rules"
"""Name of the variant that every family has: its deterministic Phase-1 rules."""


class TargetKind(Enum):
    """What a family predicts."""

    BINARY = "binary"
    """A probability in [0, 1]; outcomes are 0 or 1."""
    NUMBER = "number"
    """A number between `Target.low` and `Target.high`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The quantity that is predicted, and the range outside of which an answer is invalid."""

    name: str
    kind: TargetKind
    unit: str
    low: float
    high: float
    description: str


@dataclass(frozen=True, slots=True)
class Level:
    """A name for values at or above `at_least`."""

    name: str
    at_least: float


class RulesAnswer(NamedTuple):
    """What the rules say: the target's value, how sure they are, and why, most important reason first."""

    value: float
    confidence: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """An engineered feature: the product of two features (the same one twice gives its square)."""

    name: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Interval:
    """An engineered feature: 1 when low <= feature < high, else 0; with low > high it wraps around midnight."""

    name: str
    feature: str
    low: float
    high: float


Engineered = Product | Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A trained way to answer. `trainer` is "module:function", imported by training only."""

    name: str
    summary: str
    trainer: str


class Record(NamedTuple):
    """One past decision with its outcome, for training, evaluation and the demo.

    `at` is when the decision was taken, in seconds since 1970-01-01T00:00Z. `features` holds only what was known
    then, by name; what was not known is left out. `outcome` is the target as it turned out.
    """

    at: float
    decision_id: str
    unit_id: str
    region: str
    features: dict[str, float | str | bool]
    outcome: float


_ANY_FAMILY: Final = Thresholds()
Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all) while a file is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A prediction problem.

    `row` is a NamedTuple type with one float field per feature, in the schema's order: the rules read it by name.
    `confidence` turns a value into a number in [0, 1] whose meaning `confidence_means` states.
    `read_records` reads a data file of past decisions in order of time and refuses a wrong one with
    `InvalidArgument`, naming the line or column. `thresholds` say from where on monitoring raises an alert.
    """

    name: str
    summary: str
    schema: Schema
    target: Target
    row: type[Any]
    rules: Callable[[Any], RulesAnswer]
    rules_version: str
    variants: tuple[Variant, ...]
    engineered: tuple[Engineered, ...] = ()
    levels: tuple[Level, ...] = ()
    critical: bool = False
    """Whether somebody in need waits for its answers: a new turnout.yaml then has them answered whatever the load."""
    confidence: Callable[[float], float]
    confidence_means: str
    read_records: Callable[[Path, Progress], Iterator[Record]] | None = None
    thresholds: Thresholds = _ANY_FAMILY
    ranking_places: int = 0
    """When over 0, decisions of one unit are the candidates of one ranking, the highest value first, and monitoring
    reports NDCG over so many places. Outcomes are relevances of at least 0; each ranking has a unit of its own."""

    def __post_init__(self) -> None:
        """Refuses a declaration that contradicts itself."""
        if re.fullmatch(r"[a-z][a-z0-9_]{0,62}", self.name) is None:
            raise ValueError(f"family {self.name!r}: a name is a lower-case identifier of at most 63 characters")
        if tuple(self.row._fields) != self.schema.names:
            raise ValueError(f"family {self.name!r}: row must have the schema's features in its order")
        if RULES in {variant.name for variant in self.variants}:
            raise ValueError(f"family {self.name!r}: {RULES!r} is always there and cannot be declared")
        if self.ranking_places < 0 or (self.ranking_places and self.target.low < 0):
            raise ValueError(f"family {self.name!r}: rankings have at least 0 places, and relevances of at least 0")
        numeric = {f.name for f in self.schema.features if isinstance(f, Number | Category)}
        for feature in self.engineered:
            inputs = (feature.left, feature.right) if isinstance(feature, Product) else (feature.feature,)
            for name in inputs:
                if name not in numeric:
                    raise ValueError(f"family {self.name!r}: engineered {feature.name!r} needs the unknown {name!r}")

    def level(self, value: float) -> str:
        """Names the level of a value; empty when the family declares none."""
        found = ""
        for level in self.levels:
            if value >= level.at_least:
                found = level.name
        return found


def names() -> tuple[str, ...]:
    """Lists the families: every package in `bentos`."""
    package = importlib.import_module("bentos")
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg))


def load(name: str) -> Family:
    """Imports a family's declaration.

    Raises:
        NotFound: there is no such family.
    """
    if name not in names():
        raise NotFound("family", f"there is no family {name[:64]!r}; the families are: {', '.join(names())}")
    family: Family = importlib.import_module(f"bentos.{name}").FAMILY
    return family
