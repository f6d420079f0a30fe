"""Progress: a bar on a terminal, a line every tenth elsewhere."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Console

from equimd import progress
from equimd.notices import doing
from equimd.progress import CountedProgress, Progress, Teller, counted_stages, time_left
from equimd.terminal import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, in its only element."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(autouse=True)
def _colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal like any other."""
    for name in ("NO_COLOR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def drawn(bar: ProgressBar, width: int = 80) -> list[str]:
    """The lines that are drawn now."""
    console = Console(width=width, force_terminal=True, color_system=None, file=(out := io.StringIO()))
    console.print(bar.screen.drawn())
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_terminal_gets_stage_share_and_times_and_details_below(clock: list[float]) -> None:
    bar = ProgressBar(stream := Terminal())
    work = Teller(bar, "work")
    work.step(0.25, "work", "1 of 4", "much to do", values={})
    assert not work.due(0.25)
    clock[0] += progress.REFRESH
    assert work.due(0.25)
    clock[0] += 60.0 - progress.REFRESH
    work.step(0.5, "work", "2 of 4", left="1m00s left", values={})
    first, second = drawn(bar)
    assert re.fullmatch("work  ━{20} {20}   50 %  1m00s  1m00s left", first)  # colours show the rest of the bar
    assert second == "  2 of 4"
    bar.line("by the way")
    work.end()
    assert "by the way\n" in stream.getvalue()
    assert "\x1b[?25l" not in stream.getvalue()  # the cursor is never hidden: no kill can leave it so
    assert not bar.screen.started


@pytest.mark.parametrize("width", [80, 200])
def test_a_simulation_shows_threshold_and_time_left(width: int, clock: list[float]) -> None:
    bar = ProgressBar(Terminal())
    details = ("sigma 0.114 of 0.148 eV/A", "12 flagged", "T 1036 K", "30 of 32 replicas", "0.0123 ns/day")
    bar(Progress("step", "simulation", 0.42, "12.345 of 100 ps", details, "1h23m left"))
    lines = drawn(bar, width)
    assert all(len(line) <= width for line in lines)
    assert "simulation" in lines[0] and "42 %" in lines[0] and lines[0].endswith("1h23m left")
    assert "12.345 of 100 ps | sigma 0.114 of 0.148 eV/A" in lines[1]
    assert " ".join(" ".join(lines[1:]).split()) == "12.345 of 100 ps | " + " | ".join(details)
    bar(Progress("step", "a stage with a name that is far too long for it", 1.0, left="9h59m left"))
    assert len(lines := drawn(bar, width)) == 1 and lines[0].endswith("100 %  0s  9h59m left")


def test_between_two_stages_it_says_what_is_done(clock: list[float]) -> None:
    with ProgressBar(Terminal()) as bar:
        assert drawn(bar) == []
        clock[0] += 7.0
        assert re.fullmatch("loading  ━{40} +7s", drawn(bar)[0])
        doing("compiling")
        clock[0] += 60.0
        assert re.fullmatch("compiling  ━{40} +1m00s", drawn(bar)[0])
        bar(Progress("step", "work", 0.5))
        bar(Progress("end", "work", 1.0))
        assert drawn(bar) == []
        clock[0] += 2.0
        assert re.fullmatch("working  ━{40} +2s", drawn(bar)[0])
    assert not bar.screen.started


def test_what_is_printed_to_stderr_meanwhile_stands_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with ProgressBar() as bar:
        bar(Progress("step", "work", 0.5, left="3s left"))
        print("a warning [of somebody]", file=sys.stderr)
    assert sys.stderr is stream
    assert "a warning [of somebody]\n" in stream.getvalue()


@pytest.mark.parametrize("begun", [True, False])
def test_lines_beside_the_bar_go_on_between_words(begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    bar = ProgressBar(stream := Terminal())
    if begun:
        bar(Progress("step", "simulation", 0.1, "simulation"))
    sentence = "replica 0 halted at step 304: atoms flying apart: 6 lost the rest of the molecule"
    bar.line(sentence)
    bar.clear()
    told = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).splitlines()
    lines = [line.strip() for line in told if line.strip() and "simulation" not in line]
    assert " ".join(lines) == sentence and len(lines) == 3


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("RANK", "1")])
def test_who_asks_for_plain_text_gets_it(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with ProgressBar(stream := Terminal()) as bar:
        counted = CountedProgress(bar, "work", "frames")
        for done in range(1, 101):
            counted(done, 100)
        counted.end()
    assert re.fullmatch(r"(work \d+ of 100 frames( \| \d+s left)?\n)+", stream.getvalue())


def test_elsewhere_there_is_a_line_every_tenth(clock: list[float]) -> None:
    counted = CountedProgress(ProgressBar(stream := io.StringIO()), unit="frames")
    for done in range(1, 1001):
        clock[0] += 1.0
        counted(done, 1000)
    counted.end()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "100 of 1,000 frames | 15m00s left"
    assert lines[-1] == "1,000 of 1,000 frames"
    assert len(lines) == 10


def test_pieces_of_work_have_names_and_begin_anew(clock: list[float]) -> None:
    with counted_stages(ProgressBar(stream := io.StringIO()), "B") as counted:
        for name in ("a.npz", "b.npz"):
            counted(name, 2_000_000, 4_000_000)
            clock[0] += 10.0
    assert stream.getvalue().splitlines() == ["a.npz 2.0 of 4.0 MB", "b.npz 2.0 of 4.0 MB"]
    bar = ProgressBar(Terminal())
    with counted_stages(bar, "B") as counted:
        counted("c.npz", 2_000_000, 0)  # nobody says how much there is
        assert drawn(bar)[1] == "  2.0 MB"
        counted("d.npz", 0, 4_000_000)
        clock[0] += 10.0
        counted("d.npz", 1_000_000, 4_000_000)
        assert drawn(bar)[0].endswith("25 %  10s  30s left")
        assert drawn(bar)[1] == "  1.0 of 4.0 MB"
    assert not bar.screen.started  # whatever is left over: the stage has ended


def test_the_time_left_does_not_count_what_was_done_before(clock: list[float]) -> None:
    told: list[Progress] = []
    with counted_stages(told.append, "frames") as counted:
        counted("work", 50, 100)
        clock[0] += 10.0
        counted("work", 75, 100)
    assert [p.left for p in told] == ["", "10s left", ""]


def test_quick_work_gets_two_lines(clock: list[float]) -> None:
    counted = CountedProgress(ProgressBar(stream := io.StringIO()), unit="frames")
    for done in range(1, 101):
        counted(done, 100)
    assert stream.getvalue().splitlines()[1:] == ["100 of 100 frames"]


def test_a_callback_is_told_what_stage_and_how_much_of_it(clock: list[float]) -> None:
    told: list[Progress] = []
    with counted_stages(told.append, "frames") as counted:
        for stage in ("posterior", "own dynamics"):
            for done in range(1, 1001):
                counted(stage, done, 1000)
    assert [p.stage for p in told if p.kind == "end"] == ["posterior", "own dynamics"]
    steps = [p for p in told if p.kind == "step"]
    assert len(steps) < 30 and steps[-1].share == 1.0  # often enough for a bar, and not a thousand times
    assert steps[-1].values == {"done": 1000, "total": 1000}
    assert str(steps[-1]) == "own dynamics 1,000 of 1,000 frames"


def test_the_end_of_a_stage_is_told_once(clock: list[float]) -> None:
    told: list[Progress] = []
    with counted_stages(told.append, "%") as counted:
        for done in (500, 1000, 1000, 1000):
            counted("training", done, 1000)
            clock[0] += 10.0
        counted("training", 500, 1000)  # a second one
    assert [p.share for p in told if p.kind == "step"] == [0.5, 1.0, 0.5]
    assert len([p for p in told if p.kind == "end"]) == 2


def test_nobody_is_told_anything_for_free() -> None:
    silent = Teller(None, "work")
    assert not silent.due(1.0)
    silent.line("nobody hears this", values={})
    silent.end()


def test_the_rest_goes_on_as_the_work_so_far() -> None:
    assert time_left(60.0, 0.25) == "3m00s left"
