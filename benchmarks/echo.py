"""The yardstick: a bare grpc.aio server that decodes a PredictRequest and sends it back. Nothing else."""

from __future__ import annotations

import asyncio

import grpc

from services.runtime.serving import announce, until_signalled
from turnout.v1 import prediction_pb2


async def _echo(
    request: prediction_pb2.PredictRequest, _: grpc.aio.ServicerContext[object, object]
) -> prediction_pb2.PredictRequest:
    return request


async def main() -> None:
    """Serves until SIGTERM."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(
        _echo,
        request_deserializer=prediction_pb2.PredictRequest.FromString,
        response_serializer=prediction_pb2.PredictRequest.SerializeToString,
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    announce("echo", grpc=f"127.0.0.1:{port}")
    await until_signalled()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(main())
