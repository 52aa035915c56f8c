"""turnout.yaml is taken whole or refused with one sentence that names the line."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from router.__main__ import main
from services.runtime.config import ConfigError, parse_config, read_config

TOKEN = "0" * 63 + "a"
GOOD = f"""\
home: here
router: {{grpc: "127.0.0.1:0", metrics: "127.0.0.1:0"}}
hub: {{grpc: "unix:/tmp/hub.sock"}}
tenants:
  city: {{token_sha256: "{TOKEN}"}}
families:
  dispatch:
    variants:
      xgb: {{addresses: ["10.0.0.1:9000", "unix:x.sock"]}}
      forest: {{bento: "dispatch-forest:abc"}}
experiments:
  dispatch:
    salt: s
    champion: time
    strategy: {{kind: time, window_seconds: 60}}
    arms:
      time: {{variant: rules, weight: 50}}
      xgb: {{variant: xgb, weight: 50}}
"""


def changed(before: str, after: str) -> str:
    """The good file with one place changed."""
    assert GOOD.count(before) == 1
    return GOOD.replace(before, after)


_LETTERS = "abcdefghijklmnop"
WRONG: dict[str, tuple[str | bytes, int, str]] = {
    "an empty file": ("", 1, "must be a mapping"),
    "a list": ("- families\n", 1, "must be a mapping"),
    "two documents": ("families: {}\n---\nfamilies: {}\n", 2, "not valid YAML"),
    "an open bracket": ("home: x\nfamilies: [\n", 3, "not valid YAML"),
    "a tab": ("families:\n\tdispatch: {}\n", 2, "not valid YAML"),
    "no UTF-8": (b"home: x\n\nfamilies: \xff\n", 3, "not valid YAML in UTF-8"),
    "a NUL": ("home: x\nfamilies: \0\n", 2, "not valid YAML in UTF-8"),
    "no alias": ("home: x\nfamilies: *nothing\n", 2, "undefined alias"),
    "a python object": ("home: x\nfamilies: !!python/object:os.system {}\n", 2, "constructor"),
    "an integer that is none": ('home: x\nfamilies: !!int ""\n', 2, "YAML type"),
    "a boolean that is none": ("home: x\nfamilies: !!bool maybe\n", 2, "YAML type"),
    "a date that is none": ("home: x\nfamilies: {}\nhub: 2026-13-45\n", 3, "YAML type"),
    "a list that holds itself": ("a: &a\n- *a\n- 2026-13-45\n", 1, "an alias stands within what it names"),
    "a mapping that merges itself": ("families: &a {<<: *a}\n", 1, "an alias stands within what it names"),
    "merges of merges": (
        "a: &a {k: v}\n" + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in pairwise(_LETTERS)),
        7,
        "over 500000 values",
    ),
    "lists of lists": (
        "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise(_LETTERS)),
        7,
        "over 500000 values",
    ),
    "a number to base 60": ("families: {}\nx: 1" + ":59" * 100_000, 2, "a value has over 4096 characters"),
    "a home that is no path": (changed("home: here", 'home: "he\\0re"'), 1, "a path holds no NUL"),
    "a name that begins like loopback": (
        'families: {}\nrouter:\n  grpc: "127.0.0.1.example.org:8001"\n',
        3,
        "declare tenants with tokens",
    ),
    "nested without end": ("a: " + "[" * 5000, 1, "nested too deep"),
    "no families": ("home: x\n", 1, "families: field required"),
    "a key twice": (changed("home: here", "home: here\nhome: there"), 2, "a second time"),
    "a deep key twice": (changed("    salt: s", "    salt: s\n    salt: t"), 14, "'salt' stands here a second time"),
    "an unknown section": (changed("home: here", "home: here\ncolour: red"), 2, "colour"),
    "an unknown key": (changed("    salt: s", "    salt: s\n    colour: red"), 14, "experiments.dispatch.colour"),
    "a family's name": (changed("  dispatch:\n    variants", "  Dis patch:\n    variants"), 7, "families.Dis patch"),
    "the rules as a variant": (changed("forest: {", "rules: {"), 8, "'rules' is always there"),
    "a variant nowhere": (changed('{bento: "dispatch-forest:abc"}', "{}"), 10, "needs a bento"),
    "a bento without version": (changed("dispatch-forest:abc", "forest"), 10, "variants.forest.bento"),
    "a port too high": (changed("10.0.0.1:9000", "10.0.0.1:65536"), 9, "a port is at most 65535"),
    "no port": (changed("10.0.0.1:9000", "10.0.0.1"), 9, "variants.xgb.addresses.0"),
    "metrics on a unix socket": (changed('metrics: "127.0.0.1:0"', 'metrics: "unix:/m"'), 2, "router.metrics"),
    "a number out of its range": (changed('0", metrics', '0", max_concurrent_calls: 0, metrics'), 2, "router.max_con"),
    "a short token": (changed(TOKEN, "0a"), 5, "tenants.city.token_sha256"),
    "a token of two": (
        changed("families:", f'  town: {{token_sha256: "{TOKEN}"}}\nfamilies:'),
        6,
        "tenants.town: tenant 'city' has the same token",
    ),
    "a tenant's token as an operator's": (
        changed("families:", f'operators:\n  ada: {{token_sha256: "{TOKEN}"}}\nfamilies:'),
        7,
        "operators.ada: tenant 'city' has the same token",
    ),
    "an operator called like the file": (
        changed("families:", f'operators:\n  turnout.yaml: {{token_sha256: "{"1" * 64}"}}\nfamilies:'),
        7,
        "stands for something else in histories",
    ),
    "open without an operator's token": (changed("unix:/tmp/hub.sock", "0.0.0.0:8003"), 3, "declare operators"),
    "open without tenants": ('families: {}\nrouter:\n  grpc: "0.0.0.0:8001"\n', 3, "declare tenants with tokens"),
    "no weight": (changed("variant: rules, weight: 50", "variant: rules, weight: -1"), 17, "arms.time.weight"),
    "weights all zero": (GOOD.replace("weight: 50", "weight: 0"), 16, "at least one arm needs a weight"),
    "a weight that is infinite": (changed("xgb, weight: 50", "xgb, weight: .inf"), 18, "arms.xgb.weight"),
    "an unknown champion": (changed("champion: time", "champion: nobody"), 14, "'nobody' is not one of the arms"),
    "an unknown variant": (changed("variant: xgb,", "variant: nobody,"), 18, "families.dispatch has no 'nobody'"),
    "an unknown family": (changed("  dispatch:\n    salt", "  other:\n    salt"), 12, "families has no 'other'"),
    "an unknown strategy": (changed("kind: time", "kind: lottery"), 15, "experiments.dispatch.strategy"),
    "no kind": (changed("kind: time, ", ""), 15, "experiments.dispatch.strategy"),
    "a window of nothing": (changed("window_seconds: 60", "window_seconds: 0"), 15, "strategy.window_seconds"),
}


def test_a_good_file_is_taken(tmp_path: Path) -> None:
    """Its home counts from its folder."""
    path = tmp_path / "turnout.yaml"
    path.write_text(GOOD)
    config = read_config(path)
    assert config.home == tmp_path / "here"
    assert list(config.experiments["dispatch"].arms) == ["time", "xgb"]


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_at_its_line(case: str) -> None:
    """One sentence: file, line, the place in words, and what is wrong."""
    text, line, saying = WRONG[case]
    with pytest.raises(ConfigError) as refused:
        parse_config(text, "turnout.yaml")
    sentence = str(refused.value)
    assert re.match(rf"turnout\.yaml:{line}(:\d+)?: ", sentence), sentence
    assert saying in sentence
    assert "\n" not in sentence
    assert len(sentence) < 300


@pytest.mark.parametrize("case", ["an open bracket", "an unknown variant", "an integer that is none", "a token of two"])
def test_a_router_does_not_start_with_a_wrong_file(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and the sentence on standard error, no trace."""
    text, line, saying = WRONG[case]
    path = tmp_path / "turnout.yaml"
    path.write_text(str(text))
    monkeypatch.setattr(sys, "argv", ["router", "--config", str(path)])
    assert main() == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"router: {path}:{line}:")
    assert saying in told


def test_a_router_does_not_start_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is away, or a folder in its place."""
    for path in (tmp_path / "nothing.yaml", tmp_path):
        monkeypatch.setattr(sys, "argv", ["router", "--config", str(path)])
        assert main() == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith(f"router: {path} cannot be read: ")
