"""Runs an ONNX graph on packed rows. The only module of the server that touches onnxruntime and numpy arrays."""

from __future__ import annotations

from typing import Any, Final, Protocol

from bentos.manifest import Manifest
from services.runtime.errors import FailedPrecondition

Packed = bytes | memoryview
"""Rows as float32, little-endian, row-major."""
FLOAT_BYTES: Final = 4


class Engine(Protocol):
    """Something that answers rows. `infer` may be called from several threads at once."""

    @property
    def features(self) -> int:
        """Columns of the input."""

    @property
    def outputs(self) -> int:
        """Columns of the output."""

    def infer(self, packed: Packed, rows: int) -> bytes:
        """Gives the outputs of `rows` packed rows: float32, little-endian, [rows, outputs]. May raise anything."""


class OnnxEngine:
    """An ONNX graph in onnxruntime, on one thread: throughput comes from several processes.

    Raises:
        FailedPrecondition: the file is no graph that onnxruntime can load, or its inputs or outputs are not those of
            the manifest.
    """

    def __init__(self, content: bytes, manifest: Manifest) -> None:
        import numpy as np
        import onnxruntime as ort

        self.features = len(manifest.features)
        self.outputs = len(manifest.outputs)
        self._from_buffer: Any = np.frombuffer
        self._dtype = np.dtype("<f4")
        self._input = manifest.input_name
        self._wanted = [manifest.output_name]
        ort.set_default_logger_severity(3)
        try:
            self._session: Any = ort.InferenceSession(content, _options(ort), providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime raises types of its own that share no base class but Exception.
            raise FailedPrecondition("model_file", "onnxruntime cannot load the packaged model file") from error
        inputs = [(i.name, i.type) for i in self._session.get_inputs()]
        if inputs != [(self._input, "tensor(float)")]:
            raise FailedPrecondition("input_name", f"the graph's inputs must be one float tensor {self._input!r}")
        if manifest.output_name not in [output.name for output in self._session.get_outputs()]:
            raise FailedPrecondition("output_name", f"the graph has no output {manifest.output_name!r}")

    def infer(self, packed: Packed, rows: int) -> bytes:
        """Runs the graph.

        Raises:
            ValueError: the graph's answer has another shape or type than the manifest says.
        """
        array = self._from_buffer(packed, self._dtype).reshape(rows, self.features)
        (answer,) = self._session.run(self._wanted, {self._input: array})
        if answer.shape != (rows, self.outputs) or answer.dtype != self._dtype:
            raise ValueError(f"the graph gave {answer.dtype} {answer.shape}, not float32 {(rows, self.outputs)}")
        return bytes(answer.tobytes())

    def warm_up(self) -> None:
        """Runs one row of zeros, so that the first caller does not pay for what onnxruntime sets up.

        Raises:
            FailedPrecondition: the graph does not answer as the manifest says.
        """
        try:
            self.infer(bytes(self.features * FLOAT_BYTES), 1)
        except Exception as error:
            # onnxruntime raises types of its own that share no base class but Exception.
            raise FailedPrecondition("model_file", "the packaged model does not answer a row of zeros") from error


def _options(ort: Any) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # The arena and the memory patterns keep every shape's peak for ever; batches here are small and of many shapes.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
