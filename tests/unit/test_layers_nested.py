"""Layers within one another have a bound: each change looks at every chain whole."""

from __future__ import annotations

import pytest

from services.runtime.experiment import Layer, LayerSlice
from services.runtime.experiment_set import MAX_NESTING, SetError, check_set


def _chain(length: int) -> dict[str, Layer]:
    layers = {"l0": Layer(salt="s")}
    for depth in range(1, length):
        layers[f"l{depth}"] = Layer(salt="s", within=LayerSlice(layer=f"l{depth - 1}", start=0, end=100))
    return layers


def test_layers_nest_so_deep_and_no_deeper() -> None:
    """The refusal names the layer that is too deep."""
    check_set({}, _chain(MAX_NESTING))
    with pytest.raises(SetError, match=f"'l{MAX_NESTING}' is over {MAX_NESTING} layers deep") as refused:
        check_set({}, _chain(MAX_NESTING + 1))
    assert refused.value.path == ("layers", f"l{MAX_NESTING}", "within")
