"""The platform as a case finds it: hub, a model server behind the fault proxy, routers; all real processes."""

from __future__ import annotations

import contextlib
import hashlib
import random
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper

from bentos.family import load
from bentos.manifest import MANIFEST, Manifest
from services.runtime.home import Home
from tests.chaos.processes import Process
from tests.chaos.proxy import Proxy

FAMILY = "dispatch"
VARIANT = "linear"
FALLBACK_DEADLINE_MS = 500


@dataclass
class Stage:
    """Everything that runs, by its part."""

    root: Path
    config: dict[str, Any]
    config_path: Path
    proxy: Proxy
    chance: random.Random
    hub: Process
    model: Process
    routers: list[Process]
    script: Path
    echo: Process
    """A bystander: when it is slow, the machine is."""
    home: Home = field(init=False)

    def __post_init__(self) -> None:
        self.home = Home(self.root)

    @property
    def router(self) -> Process:
        """The first router."""
        return self.routers[0]

    @property
    def hub_address(self) -> str:
        """Where the ledger is asked."""
        return str(self.config["hub"]["grpc"])

    def router_pids(self) -> list[int]:
        """Ids of the routers that run."""
        return [router.pid for router in self.routers if router.running]

    def addresses(self) -> list[str]:
        """The routers' addresses."""
        return [router.addresses["grpc"] for router in self.routers]

    def write_config(self) -> None:
        """Writes turnout.yaml, whole at once."""
        scratch = self.config_path.with_suffix(".new")
        scratch.write_text(yaml.safe_dump(self.config, sort_keys=False))
        scratch.replace(self.config_path)


@contextlib.asynccontextmanager
async def staged(
    seed: int,
    *,
    double: bool = False,
    routers: int = 1,
    settings: dict[str, object] | None = None,
    root: Path | None = None,
) -> AsyncIterator[Stage]:
    """Starts the platform in a folder of its own and ends it with the block.

    Args:
        seed: of all that is random in the faults.
        double: whether the model server is the scripted one.
        routers: how many.
        settings: added to the routers' part of turnout.yaml.
        root: the folder; a temporary one without.
    """
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        stage = _prepared(root or Path(temporary), seed, double=double, routers=routers, settings=settings or {})
        async with contextlib.AsyncExitStack() as stack:
            await stage.proxy.start()
            stack.push_async_callback(stage.proxy.close)
            for process in (stage.echo, stage.hub, stage.model, *stage.routers):
                stack.push_async_callback(process.kill)
                await process.start(ready=False)
            for process in (stage.echo, stage.hub, stage.model, *stage.routers):
                await process.until_ready()
            yield stage


def _prepared(root: Path, seed: int, *, double: bool, routers: int, settings: dict[str, object]) -> Stage:
    home, chance = Home(root), random.Random(seed)
    tag = write_bento(home, "v1", seed)
    direct, through = home.socket("model"), home.socket("proxy")
    config = {
        "home": str(root),
        "router": {"grpc": "127.0.0.1:0", "metrics": "127.0.0.1:0", **settings},
        "hub": {"grpc": home.socket("hub"), "metrics": "127.0.0.1:0", "http": "127.0.0.1:0"},
        "families": {
            FAMILY: {"deadline_ms": FALLBACK_DEADLINE_MS, "variants": {VARIANT: {"bento": tag, "addresses": [through]}}}
        },
        "experiments": {
            FAMILY: {
                "salt": "chaos",
                "champion": "model",
                "strategy": {"kind": "weighted"},
                "arms": {"rules": {"variant": "rules", "weight": 0}, "model": {"variant": VARIANT, "weight": 1}},
            }
        },
    }
    path, script = root / "turnout.yaml", root / "script"
    script.write_text("well")
    if double:
        model = Process("tests.chaos.double", ("--listen", direct, "--script", str(script)), root / "model.log")
    else:
        arguments = ("--bento", str(home.bento(tag)), "--listen", direct, "--metrics", "127.0.0.1:0")
        model = Process("services.model_server", arguments, root / "model.log")
    stage = Stage(
        root,
        config,
        path,
        Proxy(Path(through.removeprefix("unix:")), Path(direct.removeprefix("unix:")), chance),
        chance,
        Process("services.hub", ("--config", str(path)), root / "hub.log"),
        model,
        [router_process(path, root, f"router-{number + 1}") for number in range(routers)],
        script,
        Process("benchmarks.echo", (), root / "echo.log"),
    )
    stage.write_config()
    return stage


def router_process(config: Path, root: Path, name: str) -> Process:
    """A router under a name of its own."""
    return Process("router", ("--config", str(config), "--name", name), root / f"{name}.log")


def write_bento(home: Home, version: str, seed: int) -> str:
    """Writes an exported bento with a small ONNX model of the family's schema; gives its tag."""
    schema = load(FAMILY).schema
    chance = np.random.default_rng(seed)
    weights = chance.normal(size=(len(schema.names), 1)).astype(np.float32) / 10
    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["x"], ["absent"]),
            helper.make_node("Where", ["absent", "zero", "x"], ["filled"]),
            helper.make_node("MatMul", ["filled", "w"], ["z"]),
            helper.make_node("Sigmoid", ["z"], ["p"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, len(schema.names)])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.zeros(1, np.float32), "zero")],
    )
    onnx = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()
    manifest = Manifest(
        family=FAMILY,
        variant=VARIANT,
        features=tuple(schema.names),
        outputs=("p",),
        schema_digest=schema.digest,
        input_name="x",
        output_name="p",
        model_file="model.onnx",
        sha256=hashlib.sha256(onnx).hexdigest(),
        background=tuple((0.0,) * len(schema.names) for _ in range(4)),
        metrics={},
        provenance={"created_at": "2026-01-01T00:00:00+00:00"},
    )
    name = f"turnout-{FAMILY}-{VARIANT}"
    folder = home.bento(f"{name}:{version}")
    model = folder / "models" / name / version
    model.mkdir(parents=True)
    (folder / "bento.yaml").write_text(f"name: {name}\nversion: {version}\n")
    (model / MANIFEST).write_text(manifest.dumps())
    (model / manifest.model_file).write_bytes(onnx)
    return f"{name}:{version}"
