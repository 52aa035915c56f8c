"""Silences: matchers on labels, and until when."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from monitoring.alerts.conditions import MAX_LABEL_BYTES
from monitoring.alerts.kinds import SECOND_US
from services.runtime.errors import InvalidArgument

MAX_MATCHERS: Final = 16
LONGEST_US: Final = 90 * 86_400 * SECOND_US
_MAX_STARS: Final = 4
"""Each star multiplies the ways in which a pattern can be tried."""


class Operator(IntEnum):
    """How a matcher compares; the numbers are those of the proto."""

    EQUAL = 1
    NOT_EQUAL = 2
    GLOB = 3
    NOT_GLOB = 4


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label; a label that is not there has the value "".

    Raises:
        InvalidArgument: names the matcher's part at fault.
    """

    label: str
    operator: Operator
    value: str

    def __post_init__(self) -> None:
        if not self.label or len(self.label) > 63:
            raise InvalidArgument("matchers", "a matcher's label has 1 to 63 characters")
        if len(self.value.encode()) > MAX_LABEL_BYTES or "\0" in self.value:
            raise InvalidArgument("matchers", f"a matcher's value is at most {MAX_LABEL_BYTES} bytes without NUL")
        if self.value.count("*") > _MAX_STARS and self.operator in {Operator.GLOB, Operator.NOT_GLOB}:
            raise InvalidArgument("matchers", f"a pattern has at most {_MAX_STARS} stars")

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tells whether it holds for these labels."""
        value = labels.get(self.label, "")
        match self.operator:
            case Operator.EQUAL:
                return value == self.value
            case Operator.NOT_EQUAL:
                return value != self.value
            case Operator.GLOB:
                return fnmatch.fnmatchcase(value, self.value)
            case Operator.NOT_GLOB:
                return not fnmatch.fnmatchcase(value, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Keeps handlers quiet about what all matchers match, from `starts_at_us` until before `ends_at_us`.

    Raises:
        InvalidArgument: no matcher or over 16, a matcher set that matches everything, or an end that is not after the
            start or over 90 days after it.
    """

    id: str
    matchers: tuple[Matcher, ...]
    starts_at_us: int
    ends_at_us: int
    created_by: str
    why: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.matchers) <= MAX_MATCHERS:
            raise InvalidArgument("matchers", f"matchers must be 1 to {MAX_MATCHERS}")
        if all(matcher.matches({}) for matcher in self.matchers):
            sentence = "matchers would silence everything: name a label and a value that some alerts do not have"
            raise InvalidArgument("matchers", sentence)
        if self.ends_at_us < self.starts_at_us or self.ends_at_us - self.starts_at_us > LONGEST_US:
            raise InvalidArgument("ends_at_unix_us", "ends_at_unix_us must be in the future, at most 90 days from now")

    def covers(self, labels: Mapping[str, str], at_us: int) -> bool:
        """Tells whether it silences these labels at an instant."""
        in_time = self.starts_at_us <= at_us < self.ends_at_us
        return in_time and all(matcher.matches(labels) for matcher in self.matchers)


def silenced_by(silences: Iterable[Silence], labels: Mapping[str, str], at_us: int) -> str:
    """Gives the id of a silence that covers these labels at an instant, empty without."""
    return next((silence.id for silence in silences if silence.covers(labels, at_us)), "")
