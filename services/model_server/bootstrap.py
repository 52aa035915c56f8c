"""Composes a model server: one bundle, one engine, one batcher, two protocols."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc
from prometheus_client import CollectorRegistry

from inference import open_inference_pb2
from services.model_server.attribution import Attributor
from services.model_server.batching import DEFAULT_LIMITS, Batcher, Limits
from services.model_server.bundle import Bundle, open_bundle
from services.model_server.engine import Engine, OnnxEngine
from services.model_server.metrics import ModelMetrics
from services.model_server.model_service import ModelService
from services.model_server.open_inference import InferenceService
from services.runtime.grpc_binding import Admission, bind
from services.runtime.serving import BACKEND_OPTIONS, Server, serving
from turnout.v1 import model_pb2

_MODEL_SERVICE: Final = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
_INFERENCE_SERVICE: Final = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_MAX_UNARY_CALLS: Final = 1024


def load(folder: Path) -> tuple[Bundle, Engine]:
    """Opens a bento and makes its engine; runs it once so that the first caller does not pay for it.

    Raises:
        FailedPrecondition: the folder is no bento that this server can serve.
    """
    bundle = open_bundle(folder)
    engine = OnnxEngine(bundle.content, bundle.manifest)
    engine.warm_up()
    return bundle, engine


@contextlib.asynccontextmanager
async def model_server(
    bundle: Bundle,
    engine: Engine,
    address: str,
    *,
    registry: CollectorRegistry,
    clock: Callable[[], float],
    drain_seconds: float = 20.0,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Server]:
    """Serves a bundle until the block ends, then drains.

    Args:
        bundle: what is served.
        engine: what runs it; a test may pass one of its own.
        address: unix:/path or host:port.
        registry: where the metrics go.
        clock: monotonic seconds.
        drain_seconds: how long what was accepted may take to finish.
        limits: bounds of the batches.

    Raises:
        OSError: the address cannot be bound.
    """
    loop = asyncio.get_running_loop()
    metrics = ModelMetrics(registry, clock=clock)
    metrics.describe(family=bundle.manifest.family, variant=bundle.manifest.variant, version=bundle.tag)
    batches = ThreadPoolExecutor(1, thread_name_prefix="batches")
    attributions = ThreadPoolExecutor(1, thread_name_prefix="attributions")
    try:
        batcher = Batcher(engine, loop=loop, worker=batches, clock=clock, observer=metrics, limits=limits)
        metrics.watch_queue(lambda: batcher.waiting_rows)
        attributor = Attributor(engine, bundle.manifest, worker=attributions, clock=clock)

        def handlers(server: Server) -> list[grpc.GenericRpcHandler]:
            model = ModelService(bundle, batcher, attributor, clock=clock, stopping=server.stopping, gauge=metrics)
            open_inference = InferenceService(bundle, batcher, clock=clock, stopping=server.stopping)
            admission = Admission(_MAX_UNARY_CALLS)
            return [
                bind(_MODEL_SERVICE, model, admission=admission),
                bind(_INFERENCE_SERVICE, open_inference, admission=admission),
            ]

        async with serving(handlers, address, options=BACKEND_OPTIONS, drain_seconds=drain_seconds) as server:
            for service in (_MODEL_SERVICE, _INFERENCE_SERVICE):
                await server.set_serving(service.full_name, serving=True)
            yield server
    finally:
        # Whatever could be finished is; a model that hangs must not keep the process alive.
        for worker in (batches, attributions):
            worker.shutdown(wait=False, cancel_futures=True)
