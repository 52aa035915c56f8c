"""Online monitor of concept drift: does the outcome still follow from the prediction as it did? Valid at every look.

A shift of the inputs changes which predictions are made and how often they are right; it does not change how often
the outcome happens where the model says 30 %. So the error rate is not looked at: the monitor learns from its first
labelled decisions what the probabilities mean (`Recalibration`, learnt anew whenever their number has doubled) and then
bets that outcomes are more frequent, less frequent, flatter or steeper in the prediction than that, by more than the
tolerance. Each bet is a likelihood ratio of the outcome against the nearest frequency that would still be fine, so
its mean is at most 1 for every fine frequency.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from monitoring.drift import state
from monitoring.drift.control import Floats
from monitoring.drift.evidence import Evidence
from monitoring.drift.recalibration import GRID, Recalibration, tallied
from monitoring.drift.results import Aspect, DriftResult, Verdict, Window, waits_for
from services.runtime.errors import InvalidArgument

BLOCK: Final = 64
RECENT: Final = 500
_STEPS: Final = (0.3, 0.8, 1.6)
"""The bets: shifts of the log odds beyond what is fine."""
_DIRECTIONS: Final = 4
_EDGE: Final = 1e-4
_CALM: Final = 0.5
"""Evidence, as a logarithm, from which on labels are tested but no longer learnt from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptSettings:
    """How strictly the relation of outcome and prediction is watched."""

    alpha: float
    """False-alarm rate over the whole run."""
    tolerance: float
    """Difference of frequencies, beyond the doubt about the reference, that is still fine."""
    reference: int
    """Labelled decisions from which the relation is learnt."""
    minimum: int


class ConceptMonitor:
    """Watches pairs of a predicted probability and its outcome."""

    def __init__(self, settings: ConceptSettings) -> None:
        self.settings = settings
        self._evidence = Evidence(1, _DIRECTIONS * len(_STEPS))
        self._tally: Floats = np.zeros((GRID, 3))
        """All labelled decisions before a drift."""
        self._learnt: Floats = np.zeros((GRID, 3))
        """The tally that the relation was learnt from."""
        self._relation: Recalibration | None = None
        self._recent: Floats = np.zeros((2, 3))
        """Two stretches: number, sum of outcomes minus expectation, sum of the same towards the centre."""
        self.decisions = 0

    def update(self, probabilities: NDArray[np.floating], outcomes: NDArray[np.floating]) -> None:
        """Takes labelled decisions in the order in which their outcomes came, both [n].

        Raises:
            InvalidArgument: a probability is not in [0, 1] or an outcome is neither 0 nor 1.
        """
        pairs = checked_pairs(probabilities, outcomes)
        wanted = max(0, self.settings.reference - self.decisions)
        if wanted:
            first, pairs = pairs[:wanted], pairs[wanted:]
            self._tally += tallied(first[:, 0], first[:, 1])
            self.decisions += len(first)
        for start in range(0, len(pairs), BLOCK):
            doubled = self._tally[:, 0].sum() >= 2 * self._learnt[:, 0].sum()
            if self._relation is None or (doubled and self._calm()):
                self._learn(self._tally.copy())
            self._test(pairs[start : start + BLOCK])

    def _learn(self, tally: Floats) -> None:
        self._learnt = tally
        self._relation = Recalibration(tally)

    def _test(self, pairs: Floats) -> None:
        assert self._relation is not None
        relation, centre = self._relation, self._learnt[:, 2].sum() / self._learnt[:, 0].sum()
        lower, middle, upper = relation.band(pairs[:, 0])
        low = np.clip(lower - self.settings.tolerance, _EDGE, 1 - _EDGE)
        high = np.clip(upper + self.settings.tolerance, _EDGE, 1 - _EDGE)
        outcome = pairs[:, 1]
        up, down = _log_ratios(high, outcome, 1), _log_ratios(low, outcome, -1)
        above = (middle > centre)[:, None]
        flatter, steeper = np.where(above, down, up), np.where(above, up, down)
        logs = np.concatenate([side.sum(axis=0) for side in (up, down, flatter, steeper)])
        self.decisions += len(pairs)
        calm = self._calm()
        self._evidence.add(logs[None, :], len(pairs))
        rejected = self._evidence.log_e() >= -math.log(self.settings.alpha)
        self._evidence.mark(rejected, self.decisions)
        if calm:
            self._tally += tallied(pairs[:, 0], outcome)
        excess = outcome - middle
        self._recent[1] += (len(pairs), excess.sum(), np.where(above[:, 0], -excess, excess).sum())
        if self._recent[1, 0] >= RECENT:
            self._recent = np.stack((self._recent[1], np.zeros(3)))

    def _calm(self) -> bool:
        """Whether nothing points to a drift yet: what may be one is not to become the standard."""
        return float(self._evidence.log_e()[0]) < _CALM

    def results(self) -> tuple[DriftResult, ...]:
        """Gives the one result; the p-value holds at every look."""
        settings = self.settings
        n, shift, flat = self._recent.sum(axis=0)
        effect = max(abs(shift), abs(flat)) / n if n else 0.0
        p_value = math.exp(min(0.0, -float(self._evidence.log_e()[0])))
        if p_value <= settings.alpha:
            verdict = Verdict.DRIFT
            detail = f"outcomes no longer follow predictions as they did: lately off by {effect:.3f} of frequency"
        elif n < settings.minimum:
            verdict = Verdict.NOT_ENOUGH_DATA
            missing = settings.minimum - int(n)
            detail = waits_for(self.decisions, settings.reference, missing, "labelled decisions")
        else:
            verdict, detail = Verdict.OK, "outcomes follow predictions as they did in the reference"
        raised = float(self._evidence.raised_at[0])
        reference = min(self.decisions, settings.reference)
        result = DriftResult(
            aspect=Aspect.CONCEPT,
            subject="P(outcome | prediction)",
            test="likelihood-ratio e-process on recalibrated residuals",
            reference=Window(reference, 0, reference),
            current=Window(int(n), self.decisions - int(n), self.decisions),
            measure="mean excess of outcomes over expectation, or the same towards the mean",
            effect=float(effect),
            limit=settings.tolerance,
            p_value=p_value,
            false_alarm_rate=settings.alpha,
            verdict=verdict,
            detail=detail,
            raised_at=None if math.isnan(raised) else raised,
        )
        return (result,)

    def to_bytes(self) -> bytes:
        """Gives the whole state."""
        fields = {
            "settings": dataclasses.asdict(self.settings),
            "decisions": [self.decisions, self._evidence.decisions],
        }
        arrays = {
            "tally": self._tally,
            "learnt": self._learnt,
            "recent": self._recent,
            "stakes": self._evidence.log_stakes,
            "raised_at": self._evidence.raised_at,
        }
        return state.pack("concept", fields, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> ConceptMonitor:
        """Restores a monitor from `to_bytes`.

        Raises:
            InvalidArgument: the bytes are not such a state.
        """
        fields, arrays = state.unpack("concept", data)
        with state.checked("concept"):
            monitor = ConceptMonitor(ConceptSettings(**fields["settings"]))
            monitor.decisions, monitor._evidence.decisions = fields["decisions"]
            monitor._tally = state.shaped(arrays["tally"], monitor._tally)
            learnt = state.shaped(arrays["learnt"], monitor._learnt)
            if learnt[:, 0].sum() > 0:
                monitor._learn(learnt)
            monitor._recent = state.shaped(arrays["recent"], monitor._recent)
            monitor._evidence.log_stakes = state.shaped(arrays["stakes"], monitor._evidence.log_stakes)
            monitor._evidence.raised_at = state.shaped(arrays["raised_at"], monitor._evidence.raised_at)
        return monitor


def checked_pairs(probabilities: NDArray[np.floating], outcomes: NDArray[np.floating]) -> Floats:
    """Gives [n, 2] of probability and outcome.

    Raises:
        InvalidArgument: a probability is not in [0, 1], an outcome is neither 0 nor 1, or their numbers differ.
    """
    if probabilities.shape != outcomes.shape or probabilities.ndim != 1:
        raise InvalidArgument("outcomes", "there is one outcome for each probability")
    pairs = np.column_stack((probabilities, outcomes)).astype(np.float64)
    if not np.all((pairs[:, 0] >= 0) & (pairs[:, 0] <= 1)):
        raise InvalidArgument("probabilities", "probabilities are from 0 to 1")
    if not np.all((pairs[:, 1] == 0) | (pairs[:, 1] == 1)):
        raise InvalidArgument("outcomes", "outcomes are 0 or 1")
    return pairs


def _log_ratios(fine: Floats, outcome: Floats, sign: int) -> Floats:
    """Gives log P(outcome | fine, shifted) - log P(outcome | fine), [n, bets]."""
    shifted = expit(logit(fine)[:, None] + sign * np.array(_STEPS))
    happened = np.log(shifted / fine[:, None])
    did_not = np.log((1 - shifted) / (1 - fine[:, None]))
    return np.asarray(np.where(outcome[:, None] == 1, happened, did_not))
