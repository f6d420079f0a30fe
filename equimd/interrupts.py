"""Ctrl-C, a polite kill, and SIGUSR1, which a scheduler sends before a job's time is over: the first ends the work
after the step under way, the second at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT, SIGTERM or SIGUSR1 came since the block began.

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
    before = {s: signal.signal(s, stop) for s in SIGNALS}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def unreached() -> Iterator[None]:
    """Processes that are started meanwhile never get SIGUSR1, which a scheduler sends to all processes of a job.

    Among them the one that multiprocessing keeps account of its resources with; it would end, and be missed.
    """
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        resource_tracker.ensure_running()
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent() -> None:
    """For worker processes: Ctrl-C and SIGUSR1, which may be sent to all processes of a job, are the main process's to
    handle, a worker would only print a traceback or die; and a worker whose main process was killed has nobody to work
    for."""
    import multiprocessing

    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def at_any_time(exit_code: int) -> None:
    """For a program, as the first thing it does: these signals raise KeyboardInterrupt from now on.

    During an import they end the program instead, with a word and ``exit_code``: there is nothing to be put in order
    yet, and what is imported may lose an exception, or turn it into another.
    """

    def later(number: int) -> None:
        threading.Timer(0.01, signal.raise_signal, [number]).start()

    def interrupt(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_qualname in ("_Disk.write", "_Disk.truncate"):  # called by HDF5, which would crash
                later(number)
                return
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                os.write(2, b"interrupted\n")
                os._exit(exit_code)
            frame = frame.f_back
        raise KeyboardInterrupt

    def lost(found: Any) -> None:
        if found.exc_type is KeyboardInterrupt:  # raised in a destructor, say; and would be lost here, too
            later(signal.SIGINT)
        else:
            sys.__unraisablehook__(found)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)
    sys.unraisablehook = lost


def not_any_more() -> None:
    """When the work is done: what is left is to end, which an interrupt would only make untidy."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
