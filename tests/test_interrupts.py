"""Ctrl-C, SIGTERM and SIGUSR1: the first asks to stop, the second stops."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from equimd.interrupts import stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_asks_and_the_second_stops(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals() as stopped:
        assert not stopped()
        signal.raise_signal(number)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_other_threads_leave_signals_alone() -> None:
    before, said = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with stop_signals() as stopped:
            said.append((stopped(), signal.getsignal(signal.SIGINT) == before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == [(False, True)]


LOST = """
import os, signal, time
from equimd.interrupts import at_any_time

at_any_time(130)

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

try:
    Held()
    for _ in range(100):
        time.sleep(0.05)
except KeyboardInterrupt:
    raise SystemExit(7)
"""


def test_an_interrupt_that_a_destructor_loses_comes_again() -> None:
    found = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stderr) == (7, "")
