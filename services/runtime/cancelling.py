"""Ending a task that goes on for ever.

A cancellation is an exception thrown into a task once, and libraries on the way may drop it: `asyncio.wait_for` of
Python 3.11 does when its work ends in the same turn of the loop (python/cpython issue 86296), and so does whatever
turns it into an error of its own. Loops that outlive every error therefore ask before each round.
"""

from __future__ import annotations

import asyncio


def asked_to_end() -> bool:
    """Tells whether somebody cancelled the present task, even if the exception was dropped on the way here."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
