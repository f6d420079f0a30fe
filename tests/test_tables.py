"""Tables: aligned text in a pipe, drawn by rich on a terminal, whole at any width."""

from __future__ import annotations

import io
import re

import pytest

from equimd.tables import Table, as_text, facts, of_markdown
from equimd.terminal import say, show

ERRORS = Table(
    [["energy", "1.06", "2.00", "meV"], ["forces", "6.82", "10.9", "meV/A, 9,000 atoms"]],
    ("", "MAE", "largest error of a force", "unit"),
    left=(0, 3),
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def drawn(part: Table | str, columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a terminal of so many columns, without its control characters."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    show([part], terminal)
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()


def test_a_pipe_is_given_aligned_text() -> None:
    pipe = io.StringIO()
    show(["2 frames", ERRORS, facts({"status": "completed", "time": "1 ps"})], pipe)
    assert pipe.getvalue().splitlines() == [
        "2 frames",
        "         MAE  largest error of a force  unit",
        "energy  1.06                      2.00  meV",
        "forces  6.82                      10.9  meV/A, 9,000 atoms",
        "status  completed",
        "time    1 ps",
    ]


def test_a_terminal_is_drawn_the_same_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    head, rule, *rows = drawn(ERRORS, 80, monkeypatch)
    assert [line.rstrip() for line in (head, *rows)] == str(ERRORS).splitlines()
    assert set(rule.strip()) == {"─"}


@pytest.mark.parametrize("columns", [48, 40, 24])
def test_a_narrow_terminal_loses_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(ERRORS, columns, monkeypatch)
    assert max(map(len, lines)) <= columns
    words = " ".join(lines).split()
    assert {"1.06", "10.9", "largest", "atoms"} <= set(words)
    assert words.count("energy") == (1 if columns > 24 else 2)  # where it goes on below, with the names again


def test_a_table_that_goes_on_below_says_again_what_its_rows_are_and_cuts_no_word() -> None:
    names = [["ethanol", "1", "train-2threads"], ["ethanol", "10", "train-2threads"], ["ethanol", "10", "md"]]
    head = ("molecule", "frames", "what", "time (ms)", "peak (%)")
    table = Table([[*name, "1.25", "100.0"] for name in names], head, left=(0, 2))
    first, second = table.beside(44)
    assert (first.head[3:], second.head[3:], second.left) == (["time (ms)"], ["peak (%)"], (0, 2))
    assert [row[:3] for row in second.rows] == names and first.widths(44)[2] == len("train-2threads")
    narrow = table.beside(34)  # for all that tells them apart and a number
    assert [each.head for each in narrow] == [["molecule", "frames", "what"], ["molecule", "time (ms)", "peak (%)"]]


def test_sentences_go_on_between_words_and_commands_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "a frame is flagged when the expected error of the force on some atom exceeds 0.1 eV/A"
    lines = drawn(sentence, 30, monkeypatch)
    assert max(map(len, lines)) <= 30 and " ".join(line.strip() for line in lines) == sentence
    terminal = Terminal()
    command = "Next: equimd data label simulations/ethanol/flagged.extxyz --out labelled.h5"
    say(f"{sentence}\n{command}", terminal)
    assert (
        terminal.getvalue().splitlines()[-1] == command and max(map(len, terminal.getvalue().splitlines()[:-1])) <= 30
    )


def test_tables_of_a_markdown_page() -> None:
    rows = "|  | halted (fs) | model |\n| --- | --- | --- |\n| 300 K | - | `small` |\n| 900 K | 45 | `big` |\n"
    page = f"# Guard\n\n{rows}\nMade [so](a.md).\n![guard](guard.png)\n"
    head, _, table, _, end, picture = of_markdown(page)
    assert picture == "plot: guard.png"
    assert (head, end) == ("# Guard", "Made so.") and isinstance(table, Table) and table.left == (0, 2)
    assert as_text([table]).splitlines()[2] == "900 K           45  big"
