"""The experiment as it is configured: a checked, immutable value with a canonical form and a digest."""

from __future__ import annotations

import hashlib
import json
import math
from enum import Enum
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DAY_SECONDS: Final = 86_400
MAX_ARMS: Final = 32
MAX_ROTATION: Final = 10_000
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


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
            raise ValueError("offset_seconds must be under window_seconds")
        if self.burn_in_seconds >= self.window_seconds:
            raise ValueError("burn_in_seconds must be under window_seconds")
        if self.time_zone and DAY_SECONDS % self.window_seconds:
            raise ValueError("with a time_zone, window_seconds must divide the 86400 seconds of a day")
        if (self.assignment is TimeAssignment.TIMETABLE) != bool(self.timetable):
            raise ValueError("a timetable goes with assignment: timetable, and only with it")
        starts = [slot.start_seconds for slot in self.timetable]
        if starts and (starts[0] != 0 or starts != sorted(set(starts))):
            raise ValueError("a timetable starts at 0 and its starts rise")
        return self


Strategy = Annotated[Random | Weighted | RoundRobin | Time, Field(discriminator="kind")]


class Experiment(Frozen):
    """The split of a family's traffic among arms. `arms` keeps the order in which it was written."""

    revision: int = Field(default=1, ge=1, lt=2**62)
    salt: str = Field(min_length=1, max_length=64)
    champion: Name
    paused: bool = False
    strategy: Strategy
    arms: dict[Name, Arm] = Field(min_length=1, max_length=MAX_ARMS)

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        if self.champion not in self.arms:
            raise ValueError(f"champion {self.champion!r} is not one of the arms")
        if not any(arm.weight > 0 for arm in self.arms.values()):
            raise ValueError("at least one arm needs a weight above 0")
        if isinstance(self.strategy, Time):
            for slot in self.strategy.timetable:
                if slot.arm not in self.arms:
                    raise ValueError(f"the timetable names the unknown arm {slot.arm!r}")
                if self.arms[slot.arm].weight == 0:
                    raise ValueError(f"the timetable names arm {slot.arm!r}, whose weight is 0")
        if isinstance(self.strategy, RoundRobin) and (cycle := sum(self.whole_weights().values())) > MAX_ROTATION:
            raise ValueError(
                f"the weights make a rotation of {cycle} steps, over the {MAX_ROTATION} allowed: "
                "percentages with two decimals that add up to 100 always fit"
            )
        return self

    def whole_weights(self) -> dict[str, int]:
        """Gives the weights above 0 as the smallest whole numbers in the same proportion, in the order of the arms."""
        hundredths = {name: round(arm.weight * 100) for name, arm in self.arms.items() if arm.weight > 0}
        divisor = math.gcd(*hundredths.values())
        return {name: weight // divisor for name, weight in hundredths.items()}

    def canonical_json(self) -> str:
        """Gives the canonical form: sorted keys, no spaces; the arms as a list, since their order matters."""
        form = self.model_dump(mode="json")
        form["arms"] = [{"name": name, **arm} for name, arm in form["arms"].items()]
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
