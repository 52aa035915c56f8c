"""A peer: KServe's Python server with a minimal `kserve.Model` around the packaged ONNX file. In .venv-peers/kserve.

Call: `python -m benchmarks.peer_kserve MODEL_FILE INPUT_NAME OUTPUT_NAME`.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import grpc
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor, LoggingInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from benchmarks.peer_model import Graph, announce, own_standard_output


class OnnxModel(Model):  # type: ignore[misc] # KServe is not installed beside mypy
    """Answers with the graph; raw contents in, raw contents out."""

    def __init__(self, model_file: str, input_name: str, output_name: str) -> None:
        super().__init__("model")
        self._graph = Graph(model_file)
        self._input = input_name
        self._output = output_name
        self.ready = True

    def predict(
        self,
        payload: InferRequest,
        headers: dict[str, str] | None = None,  # noqa: ARG002 - KServe hands it to every model
    ) -> InferResponse:
        """Answers one ModelInfer."""
        answer = self._graph.run(payload.inputs[0].as_numpy(), self._input, self._output)
        output = InferOutput(self._output, list(answer.shape), "FP32")
        output.set_data_from_numpy(answer, binary_data=payload.use_binary_outputs)
        return InferResponse(payload.id, self.name, [output], use_binary_outputs=payload.use_binary_outputs)


async def main(model_file: str, input_name: str, output_name: str) -> None:
    """Serves until SIGTERM.

    `kserve.ModelServer` listens on every interface and cannot be told otherwise. So its gRPC half is put together here
    from KServe's own parts (data plane, servicer, both interceptors), on loopback and without the HTTP half.
    """
    output = own_standard_output()
    models = ModelRepository()
    models.update(OnnxModel(model_file, input_name, output_name))
    server = grpc.aio.server(interceptors=(LoggingInterceptor(), ExceptionToStatusInterceptor()))
    servicer = InferenceServicer(DataPlane(model_registry=models), ModelRepositoryExtension(model_registry=models))
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    announce(output, f"127.0.0.1:{port}")
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
