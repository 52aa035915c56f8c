"""A Python callable that turnout.yaml names, called in a thread with the notification as a dictionary."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from monitoring.alerts.handlers.handler import DeliveryFailed
from monitoring.alerts.handlers.payload import as_dictionary
from monitoring.alerts.handlers.thread import OneThread
from monitoring.alerts.telling import Notification
from services.runtime.monitoring_config import PythonHandler


class PythonCallable:
    """Calls `function(notification)`; whatever it returns, it took it.

    Args:
        config: the dotted path; imported at the first notification.
        seconds: how long a call may take. One that hangs keeps its thread, and no other call is made meanwhile.
    """

    def __init__(self, config: PythonHandler, *, seconds: float) -> None:
        self._path = config.callable
        self._seconds = seconds
        self._thread = OneThread("alert-callable")

    async def deliver(self, notification: Notification) -> None:
        """Calls it.

        Raises:
            DeliveryFailed: it cannot be imported, raised, or did not return in time.
        """
        content = as_dictionary(notification)
        try:
            await self._thread.run(lambda: load(self._path)(content), self._seconds)
        except DeliveryFailed:
            raise
        except Exception as error:
            raise DeliveryFailed(f"{self._path} raised {type(error).__name__}") from error

    async def close(self) -> None:
        """Nothing to let go of."""


def load(path: str) -> Callable[[dict[str, Any]], object]:
    """Imports "package.module:function".

    Raises:
        DeliveryFailed: there is nothing callable of that name.
    """
    module_name, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise DeliveryFailed(f"{path} cannot be imported: {type(error).__name__}") from error
    if not callable(function):
        raise DeliveryFailed(f"{path} is not callable")
    found: Callable[[dict[str, Any]], object] = function
    return found
