"""All experiments of a family made ready as one value: which of them takes a decision, and what it gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from router.strategies.assignment import Assignment, AssignmentReason
from router.strategies.attributes import Attributes, attributes_of
from router.strategies.layers import SlicedLayer, Subject, gates
from router.strategies.snapshot import Snapshot, compile_experiment
from services.runtime.experiment import Experiment, Layer, LayerSlice
from services.runtime.experiment_set import precedence
from services.runtime.targeting import Row

Look = Callable[[], Row]
"""Gives what conditions see; called once a decision at most, and only when a condition is asked."""
Unevaluable = Callable[[Experiment], None]
"""Hears of an experiment whose condition could not be evaluated."""
RULES: Final = "rules"


@dataclass(frozen=True, slots=True)
class Ladder:
    """Experiments that are asked one after the other, in the order of their precedence."""

    snapshots: tuple[Snapshot, ...]
    open: tuple[int, ...]
    """Places of those without a layer."""
    layers: tuple[SlicedLayer, ...]
    """Layers of the others; an owner is a place."""

    @classmethod
    def of(cls, snapshots: tuple[Snapshot, ...], layers: Mapping[str, Layer]) -> Ladder:
        """Prepares experiments that stand in the order of their precedence."""
        sliced: dict[str, list[tuple[LayerSlice, int]]] = {}
        for place, snapshot in enumerate(snapshots):
            part = snapshot.experiment.layer
            if part is not None:
                sliced.setdefault(part.layer, []).append((part, place))
        return cls(
            snapshots,
            tuple(place for place, snapshot in enumerate(snapshots) if snapshot.experiment.layer is None),
            tuple(SlicedLayer.of(layers[name], layers, slices) for name, slices in sliced.items()),
        )

    def first(self, subject: Subject, look: Look | None, unevaluable: Unevaluable) -> Snapshot | None:
        """Gives the first experiment that takes the decision."""
        places = [owner for layer in self.layers if (owner := layer.owner(subject)) >= 0]
        if self.open:
            places += self.open
        if len(places) > 1:
            places.sort()
        for place in places:
            snapshot = self.snapshots[place]
            if snapshot.condition is None:
                return snapshot
            holds = snapshot.condition.holds(look()) if look is not None else None
            if holds:
                return snapshot
            if holds is None:
                unevaluable(snapshot.experiment)
        return None


@dataclass(frozen=True, slots=True)
class FamilyExperiments:
    """What decisions of a family are made by. Immutable; may be shared among threads."""

    family: str
    digest: int
    """First 8 bytes, big-endian, of the SHA-256 of `canonical`."""
    canonical: str
    experiments: Mapping[str, Snapshot]
    """By name, in the order of precedence."""
    digests: Mapping[str, int]
    """Each experiment's own digest, by name."""
    layers: Mapping[str, Layer]
    """Those that the experiments need."""
    sole: Snapshot | None
    """Takes every decision without a question; None where questions are asked."""
    nobody: Assignment
    """Of decisions that no experiment takes: the rules answer."""
    own: Mapping[str, Ladder]
    """By tenant."""
    everyone: Ladder
    conditional: bool
    """Whether any experiment has a condition."""
    attributes: Attributes
    """What the conditions look at in a call's attributes."""
    shadowed: bool
    """Whether any experiment copies rows to shadows."""

    def find(
        self, *, tenant: str, unit_id: str, decision_id: str, look: Look | None, unevaluable: Unevaluable
    ) -> Snapshot | None:
        """Gives the experiment that takes a decision; None when none does."""
        if self.sole is not None:
            return self.sole
        subject = Subject(tenant, unit_id, decision_id)
        own = self.own.get(tenant)
        found = own.first(subject, look, unevaluable) if own is not None else None
        return found or self.everyone.first(subject, look, unevaluable)

    def assign(
        self,
        *,
        unit_id: str,
        decision_id: str,
        tenant: str,
        region: str,
        at_unix_us: int,
        position: Callable[[str], int],
        look: Look | None,
        unevaluable: Unevaluable,
    ) -> Assignment:
        """Finds the experiment and chooses the arm: a pure function of its arguments.

        Args:
            unit_id: What stays assigned; empty when the decision is the unit.
            decision_id: The decision's id.
            tenant: Tenant, from the credential.
            region: Region of the switchback block.
            at_unix_us: The instant to assign for, in microseconds since 1970-01-01T00:00Z.
            position: Gives the position in the rotation of the experiment with that name; asked for a round-robin
                only. It was taken when the assignment's reason is ROTATION.
            look: Gives what conditions see; None only where there are none.
            unevaluable: Hears which conditions could not be evaluated.
        """
        snapshot = self.sole or self.find(
            tenant=tenant, unit_id=unit_id, decision_id=decision_id, look=look, unevaluable=unevaluable
        )
        if snapshot is None:
            return self.nobody
        return snapshot.strategy.assign(
            unit_id=unit_id,
            decision_id=decision_id,
            tenant=tenant,
            region=region,
            at_unix_us=at_unix_us,
            sequence=position(snapshot.experiment.name) if snapshot.rotates else 0,
        )

    def passed_over(
        self, *, tenant: str, unit_id: str, decision_id: str, look: Look
    ) -> tuple[Snapshot | None, list[str]]:
        """Asks one experiment after the other as `find` does, and tells of each that is passed over why, for people.

        Also an independent check of `find`: it uses none of its indexes.
        """
        subject = Subject(tenant, unit_id, decision_id)
        told: list[str] = []
        for name, snapshot in self.experiments.items():
            experiment = snapshot.experiment
            if experiment.tenant not in (None, tenant):
                continue
            outside = [gate for gate in gates(experiment.layer, self.layers) if not gate.holds(subject)]
            if outside:
                bucket = subject.bucket(outside[0].key)
                told.append(f"{name}: the unit's bucket {bucket} is not in {outside[0].start} to {outside[0].end - 1}")
                continue
            holds = True if snapshot.condition is None else snapshot.condition.holds(look())
            if holds:
                return snapshot, told
            told.append(f"{name}: its condition {'cannot be evaluated' if holds is None else 'does not hold'}")
        return None, told


class Compiler:
    """Makes whole sets ready; what did not change since the set before is not made again."""

    def __init__(self) -> None:
        self._known: dict[int, Snapshot] = {}

    def compile(
        self, experiments: Mapping[str, Experiment], layers: Mapping[str, Layer]
    ) -> dict[str, FamilyExperiments]:
        """Gives the families' experiments by family; a family without an experiment is not there.

        Args:
            experiments: A set that passed `check_set`, by name.
            layers: Its layers, by name.
        """
        compiled: dict[int, Snapshot] = {}
        families: dict[str, list[tuple[int, Snapshot]]] = {}
        for experiment in sorted(experiments.values(), key=precedence):
            digest = experiment.digest()
            snapshot = compiled[digest] = self._known.get(digest) or compile_experiment(experiment)
            families.setdefault(experiment.family, []).append((digest, snapshot))
        self._known = compiled
        return {name: _family(name, members, layers) for name, members in families.items()}


def compile_family(
    family: str, experiments: Mapping[str, Experiment], layers: Mapping[str, Layer]
) -> FamilyExperiments | None:
    """Makes the experiments of one family ready; None when it has none."""
    members = {name: experiment for name, experiment in experiments.items() if experiment.family == family}
    return Compiler().compile(members, layers).get(family)


def set_form(family: str, digests: Mapping[str, int], layers: Mapping[str, Layer]) -> str:
    """Gives the canonical form of a family's set: the experiments by their own digests, and the layers they need."""
    form = {
        "family": family,
        "experiments": {name: f"{digest:016x}" for name, digest in digests.items()},
        "layers": {name: layer.model_dump(mode="json") for name, layer in layers.items()},
    }
    return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _family(family: str, members: list[tuple[int, Snapshot]], layers: Mapping[str, Layer]) -> FamilyExperiments:
    needed: dict[str, Layer] = {}
    for _, snapshot in members:
        part = snapshot.experiment.layer
        while part is not None:
            needed[part.layer] = layers[part.layer]
            part = layers[part.layer].within
    digests = {snapshot.experiment.name: digest for digest, snapshot in members}
    canonical = set_form(family, digests, needed)
    digest = int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:8], "big")
    stamped = {snapshot.experiment.name: snapshot.stamped(digest) for _, snapshot in members}
    by_tenant: dict[str | None, list[Snapshot]] = {}
    for snapshot in stamped.values():
        by_tenant.setdefault(snapshot.experiment.tenant, []).append(snapshot)
    everyone = tuple(by_tenant.pop(None, ()))
    first = everyone[0] if everyone else None
    asks_nothing = first is not None and first.condition is None and first.experiment.layer is None
    return FamilyExperiments(
        family=family,
        digest=digest,
        canonical=canonical,
        experiments=stamped,
        digests=digests,
        layers=needed,
        sole=first if asks_nothing and not by_tenant else None,
        nobody=Assignment("", RULES, 1.0, AssignmentReason.UNSPECIFIED, 0, digest),
        own={tenant: Ladder.of(tuple(own), needed) for tenant, own in by_tenant.items() if tenant is not None},
        everyone=Ladder.of(everyone, needed),
        conditional=any(snapshot.condition is not None for snapshot in stamped.values()),
        attributes=attributes_of(snapshot.experiment.when for snapshot in stamped.values()),
        shadowed=any(snapshot.experiment.shadows for snapshot in stamped.values()),
    )
