"""What is different between two revisions is told, whatever it is."""

from __future__ import annotations

from hypothesis import given, settings

from services.control.changes import describe_changes, describe_layer_changes
from services.runtime.experiment import Experiment, Layer
from tests.unit.given_experiments import experiments, layers


@settings(deadline=None)
@given(experiments(), experiments())
def test_no_difference_goes_untold(before: Experiment, after: Experiment) -> None:
    """Each field alone, taken over from another experiment, is told; the same experiment twice has no difference."""
    assert describe_changes(before, before) == []
    for field in Experiment.model_fields.keys() - {"name", "revision"}:
        changed = before.model_copy(update={field: getattr(after, field)})
        assert bool(describe_changes(before, changed)) == (changed.digest() != before.digest()), field


@settings(deadline=None)
@given(layers(), layers())
def test_no_difference_of_layers_goes_untold(before: Layer, after: Layer) -> None:
    """Nor of layers."""
    assert bool(describe_layer_changes(before, after)) == (before != after)
    assert describe_layer_changes(None, after) == ["created"]
    assert describe_layer_changes(before, None) == ["deleted"]
