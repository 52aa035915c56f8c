"""A peer: MLServer with a minimal custom runtime around the packaged ONNX file. Runs in .venv-peers/mlserver.

Call: `python -m benchmarks.peer_mlserver MODEL_FILE INPUT_NAME OUTPUT_NAME`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import install_uvloop_event_loop

from benchmarks.peer_model import Graph, announce, own_standard_output

HOST = "127.0.0.1"


class OnnxRuntime(MLModel):  # type: ignore[misc] # MLServer is not installed beside mypy
    """Answers with the graph, decoding and encoding as MLServer's documentation of custom runtimes shows."""

    async def load(self) -> bool:
        """Loads the graph."""
        parameters = self.settings.parameters
        self._graph = Graph(parameters.uri)
        self._input: str = parameters.extra["input_name"]
        self._output: str = parameters.extra["output_name"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answers one ModelInfer."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        answer = self._graph.run(rows, self._input, self._output)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(self._output, answer)])


async def main(model_file: str, input_name: str, output_name: str) -> None:
    """Serves until SIGTERM."""
    output = own_standard_output()
    http_port, grpc_port = _free_ports(2)
    settings = Settings(
        host=HOST,
        http_port=http_port,
        grpc_port=grpc_port,
        parallel_workers=0,
        debug=False,
        metrics_endpoint=None,
        load_models_at_startup=False,
    )
    model = ModelSettings(
        name="model",
        # By name: under `python -m` this module is __main__, from where MLServer could not import the class.
        implementation="benchmarks.peer_mlserver.OnnxRuntime",
        parameters=ModelParameters(uri=model_file, extra={"input_name": input_name, "output_name": output_name}),
    )
    server = MLServer(settings)
    # MLServer tells nobody when its ports are bound: the bench asks until it answers.
    announce(output, f"{HOST}:{grpc_port}")
    await server.start([model])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    # As MLServer's own command does.
    install_uvloop_event_loop()
    asyncio.run(main(*sys.argv[1:4]))
