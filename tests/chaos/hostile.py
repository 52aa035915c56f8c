"""Hostile callers: half-sent, silent, reset, compressed, oversized, malformed. Others are answered all the same."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import psutil

from tests.chaos import wire
from tests.chaos.case import Case, Options, Result
from tests.chaos.single_faults import close_books, settled
from tests.chaos.stage import Stage, staged
from tests.chaos.traffic import NUMBERS, Traffic, Watch
from turnout.v1 import ledger_pb2, model_pb2, prediction_pb2

PREDICT = "/turnout.v1.PredictionService/Predict"
MOST_GROWTH_MB = 400.0
HALF_SENT, SILENT, RESETS, BOMBS = 5000, 200, 20_000, 200
STREAMS = 100
CALLERS = 64
EXPECTED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "ALREADY_EXISTS",
    "UNIMPLEMENTED",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "DEADLINE_EXCEEDED",
}
LEAKS = re.compile(
    r"Traceback|Exception|Error\b|File \"|0x[0-9a-f]{6}|\.py\b|google\.protobuf|grpc\.|/home|/tmp|object at"
)
"""What a text from inside would look like."""
Attack = Callable[[Stage, Options, Result], Awaitable[None]]


async def _besieged(options: Options, name: str, attack: Attack, *, in_time: bool = True) -> Result:
    """Runs an attack beside ordinary traffic: the router lives, stays small, and answers the others."""
    result = Result()
    async with staged(options.seed) as stage:
        await settled(stage)
        router = psutil.Process(stage.router.pid)
        before = router.memory_info().rss
        traffic, watch, over = Traffic(name), Watch(stage.echo.addresses["grpc"], stage.router_pids), asyncio.Event()

        async def flow() -> None:
            while not over.is_set():
                await traffic.run(stage.addresses, 50, 50.0)

        flowing = asyncio.create_task(flow())
        try:
            async with watch.watching():
                await attack(stage, options, result)
                over.set()
                await flowing
            result.take(traffic, watch, in_time=in_time)
            if not stage.router.running or router.pid != stage.router.pid:
                result.broken.append("the router died")
            grown = (router.memory_info().rss - before) / 1e6
            result.notes.append(f"the router grew by {grown:.0f} MB")
            if grown > MOST_GROWTH_MB:
                result.broken.append(f"the router grew by {grown:.0f} MB")
            await close_books(stage, traffic, result)
        finally:
            over.set()
            flowing.cancel()
            await asyncio.gather(flowing, return_exceptions=True)
            await traffic.close()
    return result


async def _half_sent(stage: Stage, _: Options, result: Result) -> None:
    """5 000 calls whose message never arrives whole."""
    sockets = []
    for _number in range(HALF_SENT // STREAMS):
        socket = await wire.connected(stage.addresses()[0])
        sockets.append(socket)
        for stream in range(1, 2 * STREAMS, 2):
            await socket.send(
                wire.frame(wire.HEADERS, wire.END_HEADERS, stream, wire.headers(PREDICT))
                + wire.frame(wire.DATA, 0, stream, wire.message(bytes(100))[:50])
            )
    await asyncio.sleep(3)
    open_still = sum(not socket.closed.is_set() for socket in sockets)
    result.notes.append(f"{HALF_SENT} half-sent streams, {open_still} of {len(sockets)} connections still open")
    for socket in sockets:
        await socket.close()


async def _silent(stage: Stage, _: Options, result: Result) -> None:
    """200 connections on which nobody says anything."""
    sockets = [await wire.connected(stage.addresses()[0], greeted=False) for _ in range(SILENT)]
    await asyncio.sleep(5)
    result.notes.append(f"{SILENT} silent connections")
    for socket in sockets:
        await socket.close()


async def _resets(stage: Stage, _: Options, result: Result) -> None:
    """Calls that are cancelled as soon as they are made (CVE-2023-44487)."""
    sent = connections = 0
    while sent < RESETS:
        socket = await wire.connected(stage.addresses()[0])
        connections += 1
        for stream in range(1, 2 * 1000, 2):
            call = wire.frame(wire.HEADERS, wire.END_HEADERS, stream, wire.headers(PREDICT))
            if not await socket.send(call + wire.frame(wire.RESET, 0, stream, (8).to_bytes(4, "big"))):
                break
            sent += 1
        await socket.close()
    result.notes.append(f"{sent} calls reset at once on {connections} connections")


async def _bombs(stage: Stage, _: Options, result: Result) -> None:
    """Messages that are small on the wire and 64 MB inside."""
    content = wire.message(wire.bomb(64), compressed=True)
    for _number in range(BOMBS // 20):
        socket = await wire.connected(stage.addresses()[0])
        for stream in range(1, 40, 2):
            block = wire.headers(PREDICT, (b"grpc-encoding", b"gzip"))
            data = b"".join(
                wire.frame(wire.DATA, 0, stream, content[at : at + 16_384]) for at in range(0, len(content), 16_384)
            )
            await socket.send(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, block) + data)
            await socket.send(wire.frame(wire.DATA, wire.END_STREAM, stream, b""))
        await asyncio.sleep(0.3)
        await socket.close()
    result.notes.append(f"{BOMBS} bombs of {len(content) >> 10} KiB for 64 MiB")


async def _oversized(stage: Stage, _: Options, result: Result) -> None:
    """Metadata and messages over the bounds."""
    seen: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(stage.addresses()[0]) as channel:
        call: Any = channel.unary_unary(PREDICT)
        for size, times in ((9_000, 100), (20_000, 100), (100_000, 50), (1_000_000, 5)):
            for _number in range(times):
                seen[await _code(call, b"", metadata=(("x-large", "x" * size),))] += 1
        for size in ((1 << 20) + 1, 4 << 20):
            for _number in range(20):
                seen[await _code(call, bytes(size))] += 1
    _judge(seen, result)


async def _malformed(stage: Stage, options: Options, result: Result) -> None:
    """Random, cut, flipped and nested bytes for every method of router, hub and model server."""
    seen: Counter[str] = Counter()
    targets = _targets(stage)
    numbers = iter(range(options.messages))

    async def caller(seed: int) -> None:
        chance = random.Random(seed)
        address, methods = targets[seed % len(targets)]
        while True:
            # A connection for every few hundred messages.
            async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                for _number in range(500):
                    if next(numbers, None) is None:
                        return
                    method, example = chance.choice(methods)
                    call: Any = channel.unary_unary(method)
                    seen[await _code(call, _hostile(example, chance))] += 1

    await asyncio.gather(*(caller(options.seed + number) for number in range(CALLERS)))
    for process, name in ((stage.router, "router"), (stage.hub, "hub"), (stage.model, "model server")):
        if not process.running:
            result.broken.append(f"the {name} died")
    _judge(seen, result)


def _targets(stage: Stage) -> list[tuple[str, list[tuple[str, bytes]]]]:
    """Gives addresses with their unary methods and a good message for each; the router comes most often."""
    row = prediction_pb2.PredictRequest(family="dispatch", unit_id="u", numbers=NUMBERS)
    predict = row.SerializeToString()
    outcome = prediction_pb2.RecordOutcomeRequest(decision_id="d", value=1.0).SerializeToString()
    router = [
        (PREDICT, predict),
        ("/turnout.v1.PredictionService/PredictBatch", predict),
        ("/turnout.v1.PredictionService/Explain", prediction_pb2.ExplainRequest(request=row).SerializeToString()),
        ("/turnout.v1.PredictionService/RecordOutcome", outcome),
        ("/turnout.v1.PredictionService/RecordOutcomes", outcome),
        ("/inference.GRPCInferenceService/ModelInfer", predict),
        ("/inference.GRPCInferenceService/ModelMetadata", predict),
        ("/turnout.v1.PredictionService/NoSuchMethod", predict),
    ]
    snapshots = ledger_pb2.ListSnapshotsRequest(family="dispatch").SerializeToString()
    hub = [
        # Records themselves are bytes and may be anything: they would be set aside, so none is sent here.
        ("/turnout.v1.LedgerService/FindDecisions", outcome),
        ("/turnout.v1.LedgerService/SummarizeArms", snapshots),
        ("/turnout.v1.ExperimentService/GetExperiment", snapshots),
    ]
    tensor = model_pb2.AttributeRequest(tensor=bytes(48)).SerializeToString()
    model = [("/turnout.v1.ModelService/GetModel", tensor), ("/turnout.v1.ModelService/Attribute", tensor)]
    direct = stage.model.addresses["grpc"]
    router_address = stage.addresses()[0]
    return [(router_address, router)] * 6 + [(stage.hub_address, hub), (direct, model)]


def _hostile(example: bytes, chance: random.Random) -> bytes:
    match chance.randrange(6):
        case 0:
            return chance.randbytes(chance.randrange(1, 200))
        case 1:
            return example[: chance.randrange(len(example))]
        case 2:
            data = bytearray(example)
            for _ in range(chance.randrange(1, 8)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            return bytes(data)
        case 3:
            # A length that promises far more than there is.
            return example + bytes([0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F])
        case 4:
            # Groups inside of groups.
            return bytes([0x0B]) * chance.randrange(1, 2000)
        case _:
            return example * chance.randrange(2, 20)


async def _code(call: Any, content: bytes, **options: object) -> str:
    """Makes a call; gives its code, with the text where the text says too much."""
    try:
        await call(content, timeout=10, **options)
    except grpc.aio.AioRpcError as error:
        text = error.details() or ""
        return f"{error.code().name} LEAK {text[:120]}" if LEAKS.search(text) else error.code().name
    return "OK"


def _judge(seen: Counter[str], result: Result) -> None:
    result.calls += sum(seen.values())
    unexpected = {code: count for code, count in seen.items() if code not in EXPECTED}
    result.errors += sum(unexpected.values())
    result.broken += [f"{count} × {code}" for code, count in sorted(unexpected.items())]
    result.notes.append(" ".join(f"{code.lower()}={count}" for code, count in sorted(seen.items())))


def _case(name: str, promise: str, attack: Attack, *, short: bool = False, in_time: bool = True) -> Case:
    async def run(options: Options) -> Result:
        return await _besieged(options, re.sub(r"\W+", "-", name), attack, in_time=in_time)

    return Case(f"hostile: {name}", promise, run, short=short)


OTHERS = "everybody else is answered in time, the router stays up and small"
CASES = [
    _case(
        "5 000 half-sent streams",
        "nobody else loses an answer while the router takes them up, and it stays up and small",
        _half_sent,
        in_time=False,
    ),
    _case("200 silent sockets", OTHERS, _silent),
    _case("rapid resets", OTHERS, _resets),
    _case("gzip bombs", OTHERS, _bombs),
    _case("oversized metadata and messages", "refused by code, and " + OTHERS, _oversized),
    _case(
        "malformed messages",
        "no crash, no UNKNOWN, no INTERNAL, no text from inside; everybody else is answered",
        _malformed,
        short=True,
        in_time=False,
    ),
]
