"""What is measured: a real bento, a model server and a router as processes of their own, and the echo beside them."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.processes import Process, started
from bentos.family import load
from services.dispatch.history import history
from services.dispatch.synthetic import synthetic_city
from services.runtime.home import Home
from services.training.packaging import package
from services.training.pipeline import train

HISTORY_CALLS = 20_000
"""Enough that nearly every tree reaches its full depth (11 510 splits in 200 trees)."""
SEED = 7


@dataclass(frozen=True)
class Platform:
    """Running processes under measurement."""

    echo: Process
    model_server: Process
    router: Process


@contextlib.contextmanager
def prepared(progress: Callable[[str], None]) -> Iterator[tuple[Home, str]]:
    """Trains and packages XGBoost (200 trees of depth 6 on 12 features) in a temporary home; gives home and tag."""
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        home = Home(Path(folder))
        family = load("dispatch")
        progress("simulating decisions to train on")
        records = itertools.islice(history(synthetic_city(SEED), SEED, HISTORY_CALLS), HISTORY_CALLS)
        progress("training xgboost")
        (variant,) = train(family, records, variants=["xgboost"], seed=SEED)
        progress("packaging the bento")
        yield home, package(variant, home)


@contextlib.contextmanager
def running(home: Home, tag: str) -> Iterator[Platform]:
    """Runs the platform; everything goes to the model."""
    socket = home.variant_socket("dispatch", "xgboost")
    config = {
        "home": str(home.root),
        "router": {"grpc": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
        "hub": {"grpc": home.socket("no-hub")},
        "families": {"dispatch": {"variants": {"xgboost": {"bento": tag}}}},
        "experiments": {
            "dispatch": {
                "salt": "bench",
                "champion": "xgboost",
                "strategy": {"kind": "weighted"},
                "arms": {"rules": {"variant": "rules", "weight": 0}, "xgboost": {"variant": "xgboost", "weight": 1}},
            }
        },
    }
    path = home.root / "turnout.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    server = ["-m", "services.model_server", "--bento", str(home.bento(tag)), "--listen", socket]
    with contextlib.ExitStack() as stack:
        log = home.root / "log"
        yield Platform(
            stack.enter_context(started(["-m", "benchmarks.echo"], log)),
            stack.enter_context(started([*server, "--metrics", "127.0.0.1:0"], log)),
            stack.enter_context(started(["-m", "router", "--config", str(path)], log)),
        )
