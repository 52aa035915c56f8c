"""Runs an exported graph as a server does: onnxruntime on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

from services.training.dataset import Matrix, Vector
from services.training.export import INPUT, OUTPUT


class Graph:
    """A loaded graph."""

    def __init__(self, onnx: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])

    def run(self, features: Matrix) -> Vector:
        """Gives the answers [n] to raw rows [n, f]."""
        if len(features) == 0:
            return np.empty(0, dtype=np.float64)
        return self.outputs(features)[:, 0].astype(np.float64)

    def outputs(self, features: Matrix) -> Matrix:
        """Gives the whole output [n, outputs] for at least one row, as the graph computes it."""
        computed: Matrix = self._session.run([OUTPUT], {INPUT: features})[0]
        return computed
