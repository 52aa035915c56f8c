"""What `turnout train --report` tells the hub: that retraining failed, or that it works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.cli.output import messages
from services.runtime.errors import TurnoutError, Unavailable

if TYPE_CHECKING:
    from services.cli.monitoring import Monitoring

_MAX_SUMMARY: Final = 1000


class Retraining:
    """What is known of a training while it runs."""

    def __init__(self, family: str, chosen: Sequence[str] | None) -> None:
        self.family = family
        self.chosen = chosen
        """Variants that were asked for; None for all."""
        self.trained: tuple[str, ...] = ()
        """Variants that are packaged."""

    def failed(self) -> list[dict[str, str]]:
        """Gives the labels of what did not work: each variant that was asked for, else the family."""
        if self.chosen:
            return [{"family": self.family, "variant": name} for name in self.chosen]
        return [{"family": self.family}]

    def worked(self) -> list[dict[str, str]]:
        """Gives the labels of what works: the packaged variants, and the family when they are all of it."""
        whole = [] if self.chosen else [{"family": self.family}]
        return [*whole, *({"family": self.family, "variant": name} for name in self.trained)]


@contextlib.contextmanager
def reported(told: Retraining, hub: str | None, config: Path) -> Iterator[None]:
    """Tells the hub how the block ended: RETRAINING_FAILED with the sentence of its error, or recovery.

    An interruption by hand is neither. The block's own error is raised on, whether the hub heard of it or not.

    Raises:
        FailedPrecondition: there is no configuration file to say where the hub is; before the block begins.
        Unavailable: the block worked, and the hub could not be told.
    """
    from services.cli.main import told as sentence_of
    from services.cli.monitoring_options import open_monitoring

    with open_monitoring(hub, config) as server:
        try:
            yield
        except Exception as error:
            _, sentence = sentence_of(error)
            try:
                _tell(server, told.failed(), f"training {told.family} failed: {sentence}")
            except TurnoutError as refused:
                messages().print(f"the hub was not told: {refused.message}", markup=False, soft_wrap=True)
            raise
        try:
            _tell(server, told.worked(), "")
        except TurnoutError as refused:
            sentence = f"the training worked, and the hub was not told: {refused.message}"
            raise Unavailable("", sentence) from refused


def _tell(server: Monitoring, labels: Sequence[dict[str, str]], failure: str) -> None:
    from turnout.v1 import monitoring_pb2 as pb

    summary = failure.replace("\0", "").encode()[:_MAX_SUMMARY].decode(errors="ignore")
    for one in labels:
        request = pb.RaiseAlertRequest(
            type=pb.ALERT_TYPE_RETRAINING_FAILED, labels=one, summary=summary, recovered=not failure
        )
        server.ask(request, pb.RaiseAlertResponse)
