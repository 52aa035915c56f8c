"""Peers are measured where they are installed and named where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import peers, suite


def _install(environments: Path, name: str) -> None:
    (environments / name).mkdir(parents=True)
    (environments / name / ".installed").touch()


def test_absent_peers_are_skipped_and_named_in_one_line(tmp_path: Path) -> None:
    """Without environments nothing is started or opened, and one line says what would add the peers."""
    lines: list[str] = []
    with peers.running(tmp_path / "no-bento", tmp_path / "log", lines.append, lines.append, tmp_path) as running:
        assert running == {}
    (line,) = lines
    assert all(name in line for name in (*peers.PEERS, "make peers"))


def test_an_installed_peer_has_a_figure_and_an_absent_one_has_none(tmp_path: Path) -> None:
    """The figures that can be asked for are those of the environments that exist."""
    assert peers.names(tmp_path) == ()
    _install(tmp_path, "kserve")
    assert peers.installed(tmp_path) == ("kserve",)
    assert peers.names(tmp_path) == ("kserve_unary_cpu_ratio",)


def test_a_figure_that_does_not_exist_is_refused_before_anything_is_measured() -> None:
    """The refusal names the figures that there are."""
    heard: list[str] = []
    with pytest.raises(LookupError, match="unary_cpu_ratio"):
        list(suite.run_suite(only="no_such_figure", progress=heard.append, say=heard.append))
    assert heard == []
