"""Progress: one bar on a terminal, a line every tenth elsewhere."""

from __future__ import annotations

import io

import pytest

from equimd import progress
from equimd.progress import CountedProgress, ProgressBar, time_left


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, in its only element."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_terminal_gets_one_line_that_is_drawn_anew(clock: list[float]) -> None:
    bar = ProgressBar(stream := Terminal())
    bar.show(0.25, "work", ["1 of 4", "much to do"])
    assert not bar.due(0.5)
    clock[0] += progress.REFRESH
    assert bar.due(0.5)
    bar.show(0.5, "work", ["2 of 4"])
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "work [#####---------------] 1 of 4 | much to do"
    assert second.rstrip() == "work [##########----------] 2 of 4"
    assert len(second) == len(first)  # nothing of the longer text is left
    bar.line("by the way")
    assert stream.getvalue().endswith("\r" + " " * len(second.rstrip()) + "\rby the way\n")


def test_elsewhere_there_is_a_line_every_tenth(clock: list[float]) -> None:
    counted = CountedProgress("frames", stream := io.StringIO())
    for done in range(1, 1001):
        clock[0] += 1.0
        counted(done, 1000)
    counted.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "100 of 1,000 frames"
    assert lines[-1] == "1,000 of 1,000 frames"
    assert len(lines) == 10


def test_pieces_of_work_have_names_and_begin_anew(clock: list[float]) -> None:
    counted = CountedProgress("B", stream := io.StringIO())
    for name in ("a.npz", "b.npz"):
        counted(2_000_000, 4_000_000, name)
        clock[0] += 10.0
    assert stream.getvalue().splitlines() == ["a.npz 2.0 of 4.0 MB", "b.npz 2.0 of 4.0 MB"]
    counted = CountedProgress("B", terminal := Terminal())
    counted(2_000_000, 0, "c.npz")  # nobody says how much there is
    assert terminal.getvalue() == "\rc.npz 2.0 MB [--------------------]"
    counted(0, 4_000_000, "d.npz")
    clock[0] += 10.0
    counted(1_000_000, 4_000_000, "d.npz")
    assert terminal.getvalue().endswith("\rd.npz 1.0 of 4.0 MB [#####---------------] 30s left")


def test_the_rest_goes_on_as_the_work_so_far() -> None:
    assert time_left(60.0, 0.25) == "3m00s left"
