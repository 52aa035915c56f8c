"""Sets of experiments as the ledger keeps them: a set names its experiments by digest, each kept once."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from router.strategies.family import FamilyExperiments, compile_family
from services.runtime.experiment import Experiment, Layer
from turnout.v1 import ledger_pb2

_MOST_COMPILED: Final = 64
"""Sets kept ready: decisions come nearly in order, and those of several routers lie a few revisions apart."""


class RecordedSets:
    """Makes recorded sets ready, each when it is first asked for."""

    def __init__(self, snapshots: Iterable[ledger_pb2.ExperimentSnapshot]) -> None:
        self._texts = {snapshot.digest: snapshot.canonical_json for snapshot in snapshots}
        self._compiled: OrderedDict[int, FamilyExperiments | None] = OrderedDict()
        self._experiments: dict[int, Experiment | None] = {}

    def compiled(self, digest: int) -> FamilyExperiments | None:
        """Gives the set with that digest; None when it, or one of its experiments, is missing or cannot be read."""
        if digest in self._compiled:
            self._compiled.move_to_end(digest)
            return self._compiled[digest]
        made = self._compiled[digest] = self._compile(digest)
        if len(self._compiled) > _MOST_COMPILED:
            self._compiled.popitem(last=False)
        return made

    def _compile(self, digest: int) -> FamilyExperiments | None:
        try:
            form = json.loads(self._texts[digest])
            family: str = form["family"]
            members = {name: self._experiment(int(own, 16)) for name, own in form["experiments"].items()}
            layers = {name: Layer.model_validate(layer) for name, layer in form["layers"].items()}
            known = {name: experiment for name, experiment in members.items() if experiment is not None}
            return compile_family(family, known, layers) if len(known) == len(members) else None
        except (KeyError, ValueError, TypeError, AttributeError):
            # Not there, or a form that another version wrote.
            return None

    def _experiment(self, digest: int) -> Experiment | None:
        if digest not in self._experiments:
            try:
                self._experiments[digest] = Experiment.from_canonical(self._texts[digest])
            except (KeyError, ValueError, TypeError, AttributeError):
                self._experiments[digest] = None
        return self._experiments[digest]
