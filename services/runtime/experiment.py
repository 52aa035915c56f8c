"""Experiments as they are configured: checked, immutable values with a canonical form and a digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

DAY_SECONDS: Final = 86_400
MAX_ARMS: Final = 32
MAX_ROTATION: Final = 10_000
BUCKETS: Final = 10_000
MAX_OVERRIDES: Final = 1000
MAX_UNIT_BYTES: Final = 1024
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
FAMILY_NAME: Final = r"^[a-z][a-z0-9_]{0,62}$"
Name = Annotated[str, Field(pattern=NAME)]
FamilyName = Annotated[str, Field(pattern=FAMILY_NAME)]


def wrong_at(path: tuple[str | int, ...], message: str) -> PydanticCustomError:
    """Gives an error about a place below the model that found it; `ctx["path"]` leads from that model to the place."""
    return PydanticCustomError("reference", "{text}", {"text": message, "path": path})


class Frozen(BaseModel):
    """A configuration value: unknown fields are refused, nothing changes after it was checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=1024)


class Arm(Frozen):
    """A variant taking part in an experiment; `weight` is its share relative to the other arms, 0 for none."""

    variant: Name
    weight: float = Field(default=1.0, ge=0, le=10_000)

    @field_validator("weight")
    @classmethod
    def _two_decimals(cls, weight: float) -> float:
        if not math.isclose(weight * 100, round(weight * 100), abs_tol=1e-6):
            raise ValueError("a weight has at most two decimals")
        return round(weight * 100) / 100


class Random(Frozen):
    """Equal shares among the arms with a weight above 0, by hash of the unit."""

    kind: Literal["random"]


class Weighted(Frozen):
    """Shares by weight, by hash of the unit; changed weights move as few units as possible."""

    kind: Literal["weighted"]


class RoundRobin(Frozen):
    """Strict smooth rotation in weight order, one a router."""

    kind: Literal["round_robin"]


class TimeAssignment(Enum):
    """How the arm of a switchback block is chosen."""

    SEEDED = "seeded"
    ALTERNATING = "alternating"
    TIMETABLE = "timetable"


class Slot(Frozen):
    """From `start_seconds` after local midnight on, each day, `arm` answers."""

    start_seconds: int = Field(ge=0, lt=DAY_SECONDS)
    arm: Name


class Time(Frozen):
    """A switchback: the arm belongs to a block of window × region × tenant."""

    kind: Literal["time"]
    window_seconds: int = Field(default=3600, ge=1, le=7 * DAY_SECONDS)
    offset_seconds: int = Field(default=0, ge=0)
    time_zone: str = ""
    burn_in_seconds: int = Field(default=0, ge=0)
    assignment: TimeAssignment = TimeAssignment.SEEDED
    timetable: tuple[Slot, ...] = Field(default=(), max_length=288)

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        if zone:
            try:
                ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError, OSError) as error:
                raise ValueError(f"{zone[:64]!r} is not an IANA time zone") from error
        return zone

    @model_validator(mode="after")
    def _consistent(self) -> Time:
        if self.offset_seconds >= self.window_seconds:
            raise wrong_at(("offset_seconds",), "must be under window_seconds")
        if self.burn_in_seconds >= self.window_seconds:
            raise wrong_at(("burn_in_seconds",), "must be under window_seconds")
        if self.time_zone and DAY_SECONDS % self.window_seconds:
            message = (
                f"with a time_zone windows must tile the day: {self.window_seconds} s do not divide {DAY_SECONDS} s"
            )
            raise wrong_at(("window_seconds",), message)
        if (self.assignment is TimeAssignment.TIMETABLE) != bool(self.timetable):
            raise wrong_at(("timetable",), "a timetable goes with assignment: timetable, and only with it")
        starts = [slot.start_seconds for slot in self.timetable]
        if starts and (starts[0] != 0 or starts != sorted(set(starts))):
            raise wrong_at(("timetable",), "a timetable starts at 0 and its starts rise")
        return self


Strategy = Annotated[Random | Weighted | RoundRobin | Time, Field(discriminator="kind")]


class LayerSlice(Frozen):
    """Units whose bucket in `layer`, 0 to 9 999, is at least `start` and under `end`."""

    layer: Name
    start: int = Field(ge=0, lt=BUCKETS)
    end: int = Field(gt=0, le=BUCKETS)

    @model_validator(mode="after")
    def _not_empty(self) -> LayerSlice:
        if self.start >= self.end:
            raise wrong_at(("start",), "must be under end")
        return self


class Layer(Frozen):
    """Deals units into 10 000 buckets by `salt`, those of `within` only when it is given."""

    salt: str = Field(min_length=1, max_length=64)
    within: LayerSlice | None = None


def _two_decimals(percent: float) -> float:
    if not math.isclose(percent * 100, round(percent * 100), abs_tol=1e-6):
        raise ValueError("a percentage has at most two decimals")
    return round(percent * 100) / 100


class RampStep(Frozen):
    """From `after_seconds` after the ramp's start on these weights hold; arms that are not named keep their own."""

    after_seconds: int = Field(ge=0, le=366 * DAY_SECONDS)
    weights: dict[Name, Annotated[float, Field(ge=0, le=10_000), AfterValidator(_two_decimals)]] = Field(
        min_length=1, max_length=MAX_ARMS
    )


class Ramp(Frozen):
    """Weights that change by a schedule, at the same instant on every router."""

    starts_at_unix_s: int = Field(ge=0, lt=2**40)
    steps: tuple[RampStep, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _rising(self) -> Ramp:
        starts = [step.after_seconds for step in self.steps]
        if starts != sorted(set(starts)):
            raise wrong_at(("steps",), "after_seconds must rise from step to step")
        return self


class Experiment(Frozen):
    """A split of a family's traffic among arms. `arms` keeps the order in which it was written."""

    name: Name
    family: FamilyName
    revision: int = Field(default=1, ge=1, lt=2**62)
    salt: str = Field(min_length=1, max_length=64)
    # Before the fields that name arms: an arm's own name is what is told to be wrong then.
    arms: dict[Name, Arm] = Field(min_length=1, max_length=MAX_ARMS)
    champion: Name
    paused: bool = False
    strategy: Strategy
    winner: Name | None = None
    """Arm that gets everything since the experiment was concluded."""
    tenant: Name | None = None
    """Tenant that the experiment holds for; None means all of them."""
    when: str = Field(default="", max_length=1024)
    """Condition in CEL; see `services.runtime.targeting`."""
    priority: int = Field(default=0, ge=-1000, le=1000)
    layer: LayerSlice | None = None
    hold_out_percent: Annotated[float, AfterValidator(_two_decimals)] = Field(default=0.0, ge=0, lt=100)
    overrides: dict[Annotated[str, Field(min_length=1)], Name] = Field(default_factory=dict, max_length=MAX_OVERRIDES)
    shadows: dict[Name, Annotated[float, Field(gt=0, le=100), AfterValidator(_two_decimals)]] = Field(
        default_factory=dict, max_length=4
    )
    """Percentage of the rows that is copied to each of these variants."""
    ramp: Ramp | None = None

    @field_validator("when")
    @classmethod
    def _compiles(cls, when: str) -> str:
        if when:
            from services.runtime.targeting import compile_condition

            compile_condition(when)
        return when

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        self._refer(("champion",), self.champion)
        if self.winner is not None:
            self._refer(("winner",), self.winner)
        for unit, arm in self.overrides.items():
            if len(unit.encode()) > MAX_UNIT_BYTES:
                raise wrong_at(("overrides",), f"a unit is over {MAX_UNIT_BYTES} bytes")
            self._refer(("overrides", unit), arm)
        for index, (_, weights) in enumerate(self.stages()):
            self._check_weights(("ramp", "steps", index - 1, "weights") if index else ("arms",), weights)
        if isinstance(self.strategy, Time):
            self._check_timetable(self.strategy)
        return self

    def _refer(self, path: tuple[str | int, ...], arm: str) -> None:
        if arm not in self.arms:
            raise wrong_at(path, f"{arm!r} is not one of the arms {', '.join(self.arms)}")

    def _check_weights(self, path: tuple[str | int, ...], weights: dict[str, int]) -> None:
        if not weights:
            raise wrong_at(path, "at least one arm needs a weight above 0")
        if isinstance(self.strategy, RoundRobin) and (cycle := sum(weights.values())) > MAX_ROTATION:
            message = (
                f"the weights make a rotation of {cycle} steps, over the {MAX_ROTATION} allowed: "
                "percentages with two decimals that add up to 100 always fit"
            )
            raise wrong_at(path, message)

    def _check_timetable(self, time: Time) -> None:
        for index, slot in enumerate(time.timetable):
            path = ("strategy", "time", "timetable", index, "arm")
            self._refer(path, slot.arm)
            if self.arms[slot.arm].weight == 0:
                raise wrong_at(path, f"the weight of {slot.arm!r} is 0")
        if self.ramp is not None and time.timetable:
            raise wrong_at(("ramp",), "a ramp moves weights and a timetable has none: use one of them")

    def stages(self) -> list[tuple[int | None, dict[str, int]]]:
        """Gives the whole weights from each instant on, in seconds since 1970-01-01T00:00Z; None for before them all.

        Raises:
            PydanticCustomError: a step names an unknown arm.
        """
        stages: list[tuple[int | None, dict[str, int]]] = [(None, self.whole_weights())]
        own = {name: arm.weight for name, arm in self.arms.items()}
        for index, step in enumerate(self.ramp.steps if self.ramp is not None else ()):
            for arm in step.weights:
                self._refer(("ramp", "steps", index, "weights", arm), arm)
            at = self.ramp.starts_at_unix_s + step.after_seconds if self.ramp is not None else 0
            stages.append((at, whole_weights(own | step.weights)))
        return stages

    def whole_weights(self) -> dict[str, int]:
        """Gives the arms' own weights above 0 as `whole_weights` does, in the order of the arms."""
        return whole_weights({name: arm.weight for name, arm in self.arms.items()})

    def canonical_json(self) -> str:
        """Gives the canonical form: sorted keys, no spaces, nothing that has its default; arms as a list, in order."""
        form = self.model_dump(mode="json", exclude_defaults=True)
        form["revision"] = self.revision
        form["strategy"] = self.strategy.model_dump(mode="json")
        form["arms"] = [{"name": name, "variant": arm.variant, "weight": arm.weight} for name, arm in self.arms.items()]
        return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    def digest(self) -> int:
        """First 8 bytes, big-endian, of the SHA-256 of the canonical form."""
        return int.from_bytes(hashlib.sha256(self.canonical_json().encode()).digest()[:8], "big")

    @classmethod
    def from_canonical(cls, text: str) -> Experiment:
        """Reads the canonical form back."""
        form = json.loads(text)
        form["arms"] = {arm.pop("name"): arm for arm in form["arms"]}
        return cls.model_validate(form)


def whole_weights(weights: Mapping[str, float]) -> dict[str, int]:
    """Gives the weights above 0 as the smallest whole numbers in the same proportion; empty when there is none."""
    hundredths = {name: round(weight * 100) for name, weight in weights.items() if weight > 0}
    divisor = math.gcd(*hundredths.values()) if hundredths else 1
    return {name: weight // divisor for name, weight in hundredths.items()}
