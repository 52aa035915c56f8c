"""Where sockets live: in a folder that nobody else can put a server into."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.runtime import home as home_module
from services.runtime.home import Home


def test_a_socket_stands_in_a_private_folder_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is made for this user alone."""
    monkeypatch.setattr(home_module, "_MAX_SOCKET_PATH", 4096)
    assert Home(tmp_path).variant_socket("dispatch", "xgboost") == f"unix:{tmp_path}/run/dispatch-xgboost.sock"
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0


def test_a_long_home_gets_a_short_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux allows 107 bytes, so a longer path moves to the temporary folder, always the same one for a home."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(home_module, "_MAX_SOCKET_PATH", 10)
    home = Home(Path("/" + "long/" * 40))
    assert home.socket("router") == home.socket("router")
    assert "long/long" not in home.socket("router")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """Somebody who can put a socket there could answer in the model's place."""
    monkeypatch.setattr(home_module, "_MAX_SOCKET_PATH", 4096)
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    with pytest.raises(OSError, match="folder of your own"):
        Home(tmp_path).socket("router")


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A symbolic link could lead anywhere."""
    monkeypatch.setattr(home_module, "_MAX_SOCKET_PATH", 4096)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="folder of your own"):
        Home(tmp_path).socket("router")
