"""Progress: one bar on a terminal, a line every tenth elsewhere."""

from __future__ import annotations

import io

import pytest

from equimd import progress
from equimd.progress import CountedProgress, Progress, ProgressBar, Teller, counted_stages, time_left


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
    work = Teller(bar, "work")
    work.step(0.25, "work", "1 of 4", "much to do", values={})
    assert not work.due(0.25)
    clock[0] += progress.REFRESH
    assert work.due(0.25)
    work.step(0.5, "work", "2 of 4", values={})
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "work [#####---------------] 1 of 4 | much to do"
    assert second.rstrip() == "work [##########----------] 2 of 4"
    assert len(second) == len(first)  # nothing of the longer text is left
    bar.line("by the way")
    assert stream.getvalue().endswith("\r" + " " * len(second.rstrip()) + "\rby the way\n")


def test_elsewhere_there_is_a_line_every_tenth(clock: list[float]) -> None:
    counted = CountedProgress(ProgressBar(stream := io.StringIO()), unit="frames")
    for done in range(1, 1001):
        clock[0] += 1.0
        counted(done, 1000)
    counted.end()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "100 of 1,000 frames"
    assert lines[-1] == "1,000 of 1,000 frames"
    assert len(lines) == 10


def test_pieces_of_work_have_names_and_begin_anew(clock: list[float]) -> None:
    counted = counted_stages(ProgressBar(stream := io.StringIO()), "B")
    for name in ("a.npz", "b.npz"):
        counted(name, 2_000_000, 4_000_000)
        clock[0] += 10.0
    assert stream.getvalue().splitlines() == ["a.npz 2.0 of 4.0 MB", "b.npz 2.0 of 4.0 MB"]
    counted = counted_stages(ProgressBar(terminal := Terminal()), "B")
    counted("c.npz", 2_000_000, 0)  # nobody says how much there is
    assert terminal.getvalue() == "\rc.npz 2.0 MB [--------------------]"
    counted("d.npz", 0, 4_000_000)
    clock[0] += 10.0
    counted("d.npz", 1_000_000, 4_000_000)
    assert terminal.getvalue().endswith("\rd.npz 1.0 of 4.0 MB [#####---------------] 30s left")


def test_a_callback_is_told_what_stage_and_how_much_of_it(clock: list[float]) -> None:
    told: list[Progress] = []
    counted = counted_stages(told.append, "frames")
    for stage in ("posterior", "own dynamics"):
        for done in range(1, 1001):
            counted(stage, done, 1000)
    assert [p.stage for p in told if p.kind == "end"] == ["posterior", "own dynamics"]
    steps = [p for p in told if p.kind == "step"]
    assert len(steps) < 30 and steps[-1].share == 1.0  # often enough for a bar, and not a thousand times
    assert steps[-1].values == {"done": 1000, "total": 1000}
    assert str(steps[-1]) == "own dynamics 1,000 of 1,000 frames"


def test_nobody_is_told_anything_for_free() -> None:
    silent = Teller(None, "work")
    assert not silent.due(1.0)
    silent.line("nobody hears this", values={})
    silent.end()


def test_the_rest_goes_on_as_the_work_so_far() -> None:
    assert time_left(60.0, 0.25) == "3m00s left"
