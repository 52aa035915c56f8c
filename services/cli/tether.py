"""Runs a module so that it dies with the process that started it: `python -m services.cli.tether PARENT MODULE ARG...`.

A supervisor that is killed cannot stop its children. On Linux the kernel does it (PR_SET_PDEATHSIG, prctl(2)), even
for a child that hangs; elsewhere a thread looks once a second whether the parent is still there. Setting this up in
the child itself, before its module is imported, avoids `preexec_fn`, which is unsafe with threads.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_POLL_SECONDS: Final = 1.0


def die_with(parent: int) -> None:
    """Makes this process end as soon as process `parent`, which started it, has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_poll, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        # The parent was gone before the request reached the kernel.
        os._exit(1)


def _poll(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def main() -> None:
    """Reads the command line and becomes the module."""
    parent, module, *rest = sys.argv[1:]
    die_with(int(parent))
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
