"""Ctrl-C and a polite kill: the first ends the work after the step under way, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM came since the block began.

    Work that asks it between steps can end in good order. A second signal raises KeyboardInterrupt wherever the work
    is. Outside the main thread, which alone may handle signals, the function says no.
    """
    came = False

    def stop(*_: Any) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_to_parent() -> None:
    """For worker processes: Ctrl-C is the main process's to handle; a worker would only print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
