"""A PostgreSQL server for tests, in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql/15/bin")
"""Where Debian keeps the server's programs, off the path."""
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class PostgreSQL:
    """A server of its own in a temporary folder. It listens on a unix socket and on a port of loopback."""

    folder: Path
    port: int

    def url(self, database: str) -> str:
        """Gives the URL of a database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Runs one statement outside of any transaction."""
        import psycopg

        with psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", dbname=database) as connection:
            connection.autocommit = True
            connection.execute(statement.encode())

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=40"
        self._control("start", "-w", "-t", "30", "-o", options, "-l", str(self.folder / "log"))

    def stop(self) -> None:
        """Stops the server at once, as a failing machine would: sessions are broken off."""
        self._control("stop", "-w", "-m", "immediate")

    def kill(self) -> None:
        """Kills every process of the server at once, in the middle of whatever it does; `start` recovers it."""
        killed = self._processes()
        for process in killed:
            os.kill(process, signal.SIGKILL)
        for process in killed:
            while _runs(process):
                time.sleep(0.01)
        # Where nobody buries the dead, their numbers stay taken, and the next server would think that they live.
        (self.folder / "data" / "postmaster.pid").unlink()
        (self.folder / f".s.PGSQL.{self.port}.lock").unlink()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stops every process of the server, so that it takes calls and never answers, until the block ends."""
        stopped = self._processes()
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                os.kill(process, signal.SIGCONT)

    def _processes(self) -> list[int]:
        """Gives the server's process, then those that it made."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text()
        return [first, *map(int, children.split())]

    def _control(self, *arguments: str) -> None:
        _run(str(_program("pg_ctl")), "-D", str(self.folder / "data"), *arguments)


def _runs(process: int) -> bool:
    """Tells whether a process is there and no zombie that nobody has asked about."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def _program(name: str) -> Path | None:
    found = DEBIAN / name
    if found.exists():
        return found
    anywhere = shutil.which(name)
    return Path(anywhere) if anywhere else None


def _run(*command: str) -> None:
    """Runs a program of PostgreSQL; as the user postgres when we are root, since it refuses root."""
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    # Output goes to no pipe: the server would keep it open.
    result = subprocess.run(
        [*prefix, *command], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", timeout=60
    )
    assert result.returncode == 0, f"{command[0]} failed with exit code {result.returncode}"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def a_server() -> Iterator[PostgreSQL]:
    """Makes and starts a server; stops and removes it."""
    with tempfile.TemporaryDirectory(prefix="turnout-pg-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        initdb = str(_program("initdb"))
        _run(initdb, "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        server = PostgreSQL(folder, _free_port())
        server.start()
        try:
            yield server
        finally:
            server.stop()


def why_not() -> str:
    """Says why no server can be started here, empty when one can."""
    if _program("initdb") is None or _program("pg_ctl") is None:
        return "PostgreSQL is not installed (Debian: postgresql)"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL refuses root, and there is no setpriv to become the user postgres"
    return ""
