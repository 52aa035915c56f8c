"""What the peers' processes share: the packaged ONNX graph in onnxruntime, and the line that says where one listens.

A peer runs in an environment of its own, so nothing here may import more than onnxruntime and numpy.
"""

from __future__ import annotations

import json
import os
from typing import Any


class Graph:
    """The ONNX file at `path`, with the options that our own model server gives it: one thread, no spinning."""

    def __init__(self, path: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, rows: Any, input_name: str, output_name: str) -> Any:
        """Gives `output_name`, a float32 array [rows, outputs], of a float32 array [rows, features]."""
        (answer,) = self._session.run([output_name], {input_name: rows})
        return answer


def own_standard_output() -> int:
    """Gives a descriptor of standard output, and sends all that a library prints there to the log from now on."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def announce(output: int, address: str) -> None:
    """Writes the ready line that the bench waits for, and closes `output`."""
    with os.fdopen(output, "w") as stream:
        stream.write(json.dumps({"event": "ready", "grpc": address}) + "\n")
