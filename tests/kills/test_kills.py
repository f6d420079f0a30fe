"""The short form: two kills of a simulation, and what an interrupt finds at its first moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kills import cases, harness


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_result(tmp_path: Path) -> None:
    case = cases.Case(
        "data label water.xyz water-new.xyz --calculator tests.labels.methods:Springs --out out.h5",
        cases.CASES["label"].result,
    )
    whole, seconds = harness._uninterrupted(case, tmp_path / "whole")
    for number, share in ((signal.SIGTERM, 0.6), (signal.SIGKILL, 0.8)):
        wrong = harness.kill("label", case, whole, number, share * seconds, tmp_path / number.name)
        assert not wrong, (number, wrong)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_at_the_first_moment_is_no_traceback(number: signal.Signals) -> None:
    code = "import equimd.cli.__main__ as m\nm.at_any_time(130)\nprint('here', flush=True)\nimport torch, ase.io, h5py"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (130, "interrupted\n")
