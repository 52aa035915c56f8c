"""Blocking work with a deadline, in a thread that the process does not wait for when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from monitoring.alerts.handlers.handler import DeliveryFailed


class OneThread:
    """Runs blocking work, one piece at a time. One that hangs keeps its thread; more are refused until it returns."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._busy = threading.Lock()

    async def run(self, work: Callable[[], object], seconds: float) -> None:
        """Does work within a time.

        Raises:
            DeliveryFailed: it did not return in time, or the work before has not returned yet.
            Exception: whatever the work raises.
        """
        if not self._busy.acquire(blocking=False):
            raise DeliveryFailed("an earlier call has not returned yet")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def body() -> None:
            error: BaseException | None = None
            try:
                work()
            except BaseException as caught:  # noqa: BLE001 - whatever it is, the worker decides what it means
                error = caught if isinstance(caught, Exception) else RuntimeError(type(caught).__name__)
            finally:
                self._busy.release()
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, error)

        # A daemon: a call that hangs must not keep the hub from stopping.
        threading.Thread(target=body, name=self._name, daemon=True).start()
        try:
            async with asyncio.timeout(seconds):
                await done
        except TimeoutError:
            if done.done() and not done.cancelled():
                raise
            raise DeliveryFailed(f"no return within {seconds:g} s") from None
