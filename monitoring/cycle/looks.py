"""What several tests said of one thing that somebody would look at, gathered into one condition. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from monitoring.alerts.conditions import Condition, Verdict, fitting
from monitoring.alerts.kinds import AlertType, Severity


@dataclass(slots=True)
class _Look:
    verdicts: list[Verdict] = field(default_factory=list)
    said: dict[str, list[str]] = field(default_factory=dict)
    """Sentences, each with the places that it was said of."""
    value: float | None = None
    limit: float | None = None
    severity: Severity | None = None

    def summary(self, family: str) -> str:
        """Gives each sentence once, with its places."""
        told = []
        for sentence, places in self.said.items():
            named = ", ".join(dict.fromkeys(filter(None, places)))
            told.append(f"{family} ({named}): {sentence}" if named else sentence)
        return fitting("; ".join(told))


class Looks:
    """Gathers what was said of each condition."""

    def __init__(self) -> None:
        self._looks: dict[tuple[AlertType, tuple[tuple[str, str], ...]], _Look] = {}

    def add(
        self,
        kind: AlertType,
        labels: Mapping[str, str],
        verdict: Verdict,
        summary: str,
        *,
        where: str = "",
        value: float | None = None,
        limit: float | None = None,
        severity: Severity | None = None,
    ) -> None:
        """Takes what one test says; labels without a value are left out.

        Args:
            kind: type of the alert.
            labels: what the condition is about.
            verdict: whether it holds.
            summary: a sentence; equal ones of several places are told once.
            where: the place that it was said of, such as an arm; empty where the sentence names it.
            value: what was measured.
            limit: what would be fine.
            severity: how bad it is; None for that of the alert's type.
        """
        key = (kind, tuple(sorted((name, text) for name, text in labels.items() if text)))
        look = self._looks.setdefault(key, _Look())
        again = verdict is Verdict.HOLDS and Verdict.HOLDS in look.verdicts
        if again:
            look.severity = max(filter(None, (look.severity, severity)), default=None)
        elif verdict is Verdict.HOLDS or not look.verdicts:
            look.said, look.value, look.limit, look.severity = {}, value, limit, severity
        if again or not look.said:
            look.said.setdefault(summary, []).append(where)
        look.verdicts.append(verdict)

    def conditions(self) -> list[Condition]:
        """Gives one condition for each thing that was looked at: it is clear when no test says otherwise.

        A test without enough data leaves open only what no other test has an opinion on.
        """
        found = []
        for (kind, pairs), look in self._looks.items():
            labels = dict(pairs)
            verdict = next(one for one in (Verdict.HOLDS, Verdict.CLEAR, Verdict.UNKNOWN) if one in look.verdicts)
            found.append(
                Condition(
                    type=kind,
                    labels=labels,
                    verdict=verdict,
                    summary=look.summary(labels.get("family", "")),
                    severity=look.severity,
                    value=look.value,
                    limit=look.limit,
                )
            )
        return found


def place(arm: str, variant: str) -> str:
    """Gives an arm and its variant in as few words as name them."""
    return arm if variant in {"", arm} else f"{arm} {variant}".strip()
