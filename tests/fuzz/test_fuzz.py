"""The short form of the fuzz, and inputs that it found once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.harness import Worker, each, fuzz
from tests.fuzz.targets import TARGETS, Target

FOUND = (
    ("ase", 5669),
    ("deepmd", 7392),
    ("deepmd", 13229),
    ("run", 7445),
    ("run", 15102),
    ("aselmdb", 10406),
    ("run", 109942),
    ("store", 118440),
    ("ase", 311234),
    ("run", 516416),
)


@pytest.mark.slow
def test_spoiled_inputs_are_read_or_refused() -> None:
    """Some hundred inputs over all targets, the same each time: as many as a quiet machine tries in 15 s."""
    found = fuzz(300, seconds=15.0)
    assert not found.findings, found.table() + "".join(f"\n{f}" for f in found.findings)
    assert sum(found.counts["xyz"].values()) > 2


def test_what_was_found_once_is_refused() -> None:
    """Inputs that ended in a traceback or without an end: half-precision cells, cells of 1e18 Angstrom, lists of lists
    in the place of a charge, two periodic directions, a number of a calibration that is none or absent, or a
    list in the place of a formula, texts of HDF5 that have no end, and more atoms than lines."""
    found = each(FOUND)
    assert not found.findings, found.table() + "".join(f"\n{f}" for f in found.findings)
    assert sum(sum(counts.values()) for counts in found.counts.values()) == len(FOUND)


def test_hangs_deaths_and_memory_are_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the harness says of inputs that do end in one of these; the worker is a process, so it is told by a file."""
    monkeypatch.setattr("tests.fuzz.harness.LIMIT", 3.0)
    worker = Worker()
    try:
        for words, outcome in (
            ("pass", "read"), ("import os; os.kill(os.getpid(), 7)", "signal"), ("while True: pass", "hang"),
            ("bytearray(1 << 34)", "memory"), ("1 / 0", "traceback"),
            ("from equimd.errors import DataError\nraise DataError('no')", "refused"),
        ):  # fmt: skip
            (tmp_path / "words.py").write_text(words)
            assert worker.try_("python", tmp_path / "words.py")["outcome"] == outcome, words
    finally:
        worker.close()
    assert isinstance(TARGETS["xyz"], Target) and os.name == "posix"
