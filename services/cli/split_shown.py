"""How experiments are shown: as tables for people, as plain values for programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from services.cli.moments import length
from services.cli.output import Format, emit

if TYPE_CHECKING:
    from turnout.v1 import experiment_pb2

_ASSIGNMENTS: Final = ("seeded", "seeded", "alternating", "timetable")
"""Names of TimeAssignment; what is not set is by weight."""
_ALTERNATING: Final = 2
"""TIME_ASSIGNMENT_ALTERNATING: arms with a weight above 0 take turns."""


def weights_now(experiment: experiment_pb2.Experiment, now_unix_s: float) -> dict[str, float]:
    """Gives the weights by arm at an instant: a ramp's, once it has begun."""
    weights = {arm.name: arm.weight for arm in experiment.arms}
    elapsed = now_unix_s - experiment.ramp.starts_at_unix_s
    reached = [step for step in experiment.ramp.steps if step.after_seconds <= elapsed]
    return weights | dict(reached[-1].weights) if reached else weights


def expected_shares(experiment: experiment_pb2.Experiment, now_unix_s: float | None = None) -> dict[str, float]:
    """Gives the share of the traffic that each arm is expected to get at an instant (None: now), by name."""
    single = experiment.champion if experiment.paused else experiment.winner
    if single:
        return {arm.name: float(arm.name == single) for arm in experiment.arms}
    held_out = experiment.hold_out_percent / 100
    shares = _compared(experiment, time.time() if now_unix_s is None else now_unix_s)
    return {name: share * (1 - held_out) + held_out * (name == experiment.champion) for name, share in shares.items()}


def _compared(experiment: experiment_pb2.Experiment, now_unix_s: float) -> dict[str, float]:
    kind = experiment.strategy.WhichOneof("kind")
    table = list(experiment.strategy.time.timetable) if kind == "time" else []
    weights = weights_now(experiment, now_unix_s)
    if table:
        ends = [entry.start_seconds for entry in table[1:]] + [86_400]
        shares = dict.fromkeys(weights, 0.0)
        for entry, end in zip(table, ends, strict=True):
            shares[entry.arm] += (end - entry.start_seconds) / 86_400
        return shares
    if kind == "random" or (kind == "time" and experiment.strategy.time.assignment == _ALTERNATING):
        weights = {name: float(weight > 0) for name, weight in weights.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def state_of(experiment: experiment_pb2.Experiment) -> str:
    """Gives what an experiment does: runs, is paused, ramps, or was concluded."""
    if experiment.winner:
        return f"concluded: {experiment.winner} won"
    if experiment.paused:
        return "paused"
    return "ramp" if experiment.HasField("ramp") else "running"


def plain(experiment: experiment_pb2.Experiment) -> dict[str, Any]:
    """Gives an experiment as plain values; what it does not use is left out."""
    now = time.time()
    shares, weights = expected_shares(experiment, now), weights_now(experiment, now)
    result: dict[str, Any] = {
        "name": experiment.name,
        "family": experiment.family,
        "revision": experiment.revision,
        "strategy": experiment.strategy.WhichOneof("kind"),
        "paused": experiment.paused,
        "champion": experiment.champion,
        "arms": {
            arm.name: {"variant": arm.variant, "weight": weights[arm.name], "expected_share": shares[arm.name]}
            for arm in experiment.arms
        },
    }
    if result["strategy"] == "time":
        result["time"] = _plain_time(experiment.strategy.time)
    for field in ("winner", "tenant", "when", "priority", "hold_out_percent"):
        if value := getattr(experiment, field):
            result[field] = value
    if experiment.HasField("layer"):
        result["layer"] = plain_slice(experiment.layer)
    if experiment.overrides:
        result["overrides"] = dict(sorted(experiment.overrides.items()))
    if experiment.shadows:
        result["shadows"] = {shadow.variant: shadow.percent for shadow in experiment.shadows}
    if experiment.HasField("ramp"):
        result["ramp"] = {
            "starts_at_unix_s": experiment.ramp.starts_at_unix_s,
            "steps": [
                {"after_seconds": step.after_seconds, "weights": dict(sorted(step.weights.items()))}
                for step in experiment.ramp.steps
            ],
        }
    return result


def _plain_time(given: experiment_pb2.TimeStrategy) -> dict[str, Any]:
    return {
        "window_seconds": given.window_seconds,
        "offset_seconds": given.offset_seconds,
        "time_zone": given.time_zone,
        "burn_in_seconds": given.burn_in_seconds,
        "assignment": _ASSIGNMENTS[given.assignment],
        "timetable": {_time_of_day(entry.start_seconds): entry.arm for entry in given.timetable},
    }


def _time_of_day(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}" + (f":{seconds % 60:02}" if seconds % 60 else "")


def plain_slice(given: experiment_pb2.LayerSlice) -> dict[str, Any]:
    """Gives a slice of a layer as plain values."""
    return {"layer": given.layer, "start": given.start, "end": given.end}


def print_one(experiment: experiment_pb2.Experiment, output: Format) -> None:
    """Prints one experiment."""
    result = plain(experiment)
    emit(output, result, lambda: _table(result, state_of(experiment)))


def _table(result: dict[str, Any], state: str) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    told = "" if state == "running" else f", {state}"
    name = result["name"] if result["name"] == result["family"] else f"{result['name']} ({result['family']})"
    title = f"{name}: {result['strategy']}{told}, revision {result['revision']}"
    table = Table()
    table.add_column("arm")
    table.add_column("variant")
    table.add_column("weight", justify="right")
    table.add_column("expected share", justify="right")
    for arm_name, arm in result["arms"].items():
        crown = " (champion)" if arm_name == result["champion"] else ""
        table.add_row(arm_name + crown, arm["variant"], f"{arm['weight']:g}", f"{arm['expected_share']:.1%}")
    # As text, not as markup: a condition may hold `[a-z]`, which markup would take for a tag and leave out.
    return Group(Text(title, style="table.title"), table, *map(Text, _around(result)))


def _around(result: dict[str, Any]) -> list[str]:
    """Gives what stands around the arms, a line each."""
    lines = _time_words(result["time"]) if "time" in result else []
    lines += [f"{field}: {result[field]}" for field in ("tenant", "when", "priority") if field in result]
    if "layer" in result:
        lines.append(f"layer: {slice_words(result['layer'])}")
    if "hold_out_percent" in result:
        lines.append(f"held out for the champion: {result['hold_out_percent']:g} %")
    if "overrides" in result:
        count = len(result["overrides"])
        lines.append(f"overrides: {count} unit" + "s" * (count > 1))
    if "shadows" in result:
        lines.append("shadows: " + ", ".join(f"{name} {part:g} %" for name, part in result["shadows"].items()))
    if "ramp" in result:
        start = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(result["ramp"]["starts_at_unix_s"]))
        lines.append(f"ramp from {start} UTC:")
        for step in result["ramp"]["steps"]:
            weights = ", ".join(f"{arm}={weight:g}" for arm, weight in step["weights"].items())
            lines.append(f"  after {length(step['after_seconds'])}: {weights}")
    return lines


def _time_words(given: dict[str, Any]) -> list[str]:
    zone = given["time_zone"] or "UTC"
    if given["timetable"]:
        lines = [f"each day, {zone}: " + ", ".join(f"{start} {arm}" for start, arm in given["timetable"].items())]
    else:
        offset = f", offset {length(given['offset_seconds'])}" if given["offset_seconds"] else ""
        lines = [f"windows of {length(given['window_seconds'])}, {zone}{offset}; arms {given['assignment']}"]
    if given["burn_in_seconds"]:
        lines.append(f"burn-in: the first {length(given['burn_in_seconds'])} of a block")
    return lines


def slice_words(given: dict[str, Any]) -> str:
    """Gives a slice in words."""
    return f"{given['layer']}, buckets {given['start']} to {given['end'] - 1}"


def print_all(experiments: list[experiment_pb2.Experiment], version: int, output: Format) -> None:
    """Prints a list of experiments."""
    result = {"version": version, "experiments": [plain(one) for one in experiments]}

    def table() -> Any:
        from rich.table import Table

        shown = Table(title=f"experiments, version {version}", title_justify="left")
        for column in ("name", "family", "tenant", "strategy", "weights", "state", "revision"):
            shown.add_column(column, justify="right" if column == "revision" else "left")
        now = time.time()
        for one in experiments:
            weights = ", ".join(f"{name}={weight:g}" for name, weight in weights_now(one, now).items())
            kind = str(one.strategy.WhichOneof("kind"))
            shown.add_row(one.name, one.family, one.tenant or "all", kind, weights, state_of(one), str(one.revision))
        return shown

    emit(output, result, table)
