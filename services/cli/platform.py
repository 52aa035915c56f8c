"""Everything that turnout.yaml asks for, running on this machine: hub, model servers, router."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

from services.cli.child import Change, Child, State
from services.cli.process import Program, StartFailed, python_program
from services.cli.scraping import write_targets
from services.runtime.config import Config, ConfigError, read_config
from services.runtime.errors import FailedPrecondition
from services.runtime.followed_file import fingerprint
from services.runtime.home import Home

POLL_SECONDS: Final = 0.2
ROUTER: Final = "router"
HUB: Final = "hub"
Notify = Callable[[Change], None]


def server_name(family: str, variant: str) -> str:
    """Names the model server of a variant."""
    return f"{family}/{variant}"


def model_servers(config: Config) -> dict[str, Program]:
    """Gives the program of each variant that our own process serves, by name, in the file's order.

    Raises:
        FailedPrecondition: a bento is not in the home.
    """
    home = Home(config.home)
    programs = {}
    for family, settings in config.families.items():
        for variant, served in settings.variants.items():
            if served.bento is None:
                continue
            folder = home.bento(served.bento)
            if not folder.is_dir():
                raise FailedPrecondition(
                    f"families.{family}.variants.{variant}.bento",
                    f"{served.bento} is not in {home.bentos}: run `turnout train {family}` or correct "
                    f"families.{family}.variants.{variant}.bento",
                )
            name, address = server_name(family, variant), home.variant_socket(family, variant)
            arguments = ("--bento", str(folder), "--listen", address, "--metrics", "127.0.0.1:0")
            programs[name] = python_program(name, "services.model_server", *arguments)
    return programs


class Platform:
    """The running processes, by name, in the order in which they were started."""

    def __init__(self, path: Path, config: Config, notify: Notify) -> None:
        self.children: dict[str, Child] = {}
        self.config = config
        self._path = path
        self._tell = notify
        self._logs = config.home / "logs"
        self._seen = fingerprint(path)

    async def start(self) -> None:
        """Starts everything at once: the router needs nobody else, and answers by the rules until others are there.

        A hub or a model server that cannot start is told and tried again, like one that dies later.

        Raises:
            StartFailed: the router did not become ready.
            FailedPrecondition: a bento is missing.
        """
        servers = model_servers(self.config)
        file = str(self._path)
        others = [self._add(python_program(HUB, "services.hub", "--config", file))]
        others += [self._add(program) for program in servers.values()]
        router = self._add(python_program(ROUTER, "router", "--config", file, "--name", "router-1"))
        # All are let finish starting before a failure is told: none is left half started.
        starts = [child.start(patient=child is not router) for child in (*others, router)]
        for result in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def replace_all(self) -> None:
        """Replaces every process, one after the other, each ready before the next one goes: new code, or old memory.

        Meanwhile the router answers for model servers by the rules, its journal waits for the hub, and callers of the
        router connect anew.
        """
        for name in (*(name for name in self.children if name not in (HUB, ROUTER)), HUB, ROUTER):
            child = self.children.get(name)
            if child is not None:
                await child.restart()
                self._notify(Change(name, child.state, "replaced"))

    async def stop(self) -> None:
        """Stops everything, the last one started first; model servers all at the same time."""
        router, hub = self.children.pop(ROUTER, None), self.children.pop(HUB, None)
        if router is not None:
            await router.stop()
        await asyncio.gather(*(child.stop() for child in self.children.values()))
        self.children.clear()
        if hub is not None:
            await hub.stop()

    async def follow(self) -> None:
        """Applies every change of the file to the model servers until cancelled; a wrong file changes nothing."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            now = fingerprint(self._path)
            if now is None or now == self._seen:
                continue
            self._seen = now
            try:
                config = read_config(self._path)
                await self._apply(config, model_servers(config))
            except (ConfigError, FailedPrecondition, StartFailed) as error:
                self._notify(Change(str(self._path.name), State.READY, f"not applied: {error}"))

    async def _apply(self, config: Config, wanted: dict[str, Program]) -> None:
        """One model server after the other, so that the others answer meanwhile; new ones first."""
        self.config = config
        present = {name: child for name, child in self.children.items() if name not in (HUB, ROUTER)}
        for name, program in wanted.items():
            if name not in present:
                await self._replace(name, program)
        for name, child in present.items():
            if name not in wanted:
                await self._replace(name, None)
            elif wanted[name].command != child.program.command:
                await self._replace(name, wanted[name])

    async def _replace(self, name: str, program: Program | None) -> None:
        old = self.children.pop(name, None)
        if old is not None:
            await old.stop()
        if program is None:
            self._notify(Change(name, State.STOPPED, "stopped: it is no longer in the file"))
            return
        try:
            await self._add(program).start()
        except StartFailed as error:
            # Forgotten, so that the next change of the file tries it again; its rules answer meanwhile.
            del self.children[name]
            self._notify(Change(name, State.STOPPED, str(error)))
            return
        self._notify(
            Change(name, State.READY, "started: it is new in the file" if old is None else "restarted: changed")
        )

    def _notify(self, change: Change) -> None:
        # A process that stops because all stop, or that died, stays a target: that it is away is for Prometheus to see.
        if change.state is State.READY or (change.state is State.STOPPED and change.reason):
            # A full disk must not end the supervisor; the next change writes again.
            with contextlib.suppress(OSError):
                write_targets(self.config.home, {name: child.addresses for name, child in self.children.items()})
        self._tell(change)

    def _add(self, program: Program) -> Child:
        log = self._logs / f"{program.name.replace('/', '-')}.log"
        child = self.children[program.name] = Child(program, log=log, on_change=self._notify)
        return child


@contextlib.asynccontextmanager
async def running(path: Path, notify: Notify) -> AsyncIterator[Platform]:
    """Runs the platform of a configuration file until the block ends.

    Args:
        path: turnout.yaml; followed for changes.
        notify: told about every change of a process's state.

    Raises:
        ConfigError: the file is wrong.
        StartFailed: a process did not become ready.
        FailedPrecondition: a bento is missing, or the home is in use.
    """
    platform = Platform(_absolute(path), read_config(path), notify)
    with _alone(platform.config.home):
        following = None
        try:
            await platform.start()
            following = asyncio.create_task(platform.follow(), name="follow the configuration")
            yield platform
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            await platform.stop()


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Keeps a second supervisor out, which would take the model servers' sockets away from the first one's."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                "home", f"Turnout runs on {home} already: stop it first, or give this one another `home`"
            ) from None
        yield


def _absolute(path: Path) -> Path:
    """Children get the file's full name: it is theirs to follow wherever they run."""
    return path.resolve()
