"""README does what it says, from an empty folder: its commands and its Python, in seconds; and it is short."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import equimd
from equimd.cli import main
from equimd.errors import EXIT_HALTED
from tests.few_frames import SHORT, few_bundled_frames, shorter_python
from tests.training.toy import SMALL, option_list

TINY = {**SMALL, "num_epochs": 2, "batch_size_train": 20}
#: What takes minutes, and what is done instead.
SHORTER_COMMANDS = {
    "--preset small --max-time 5m": " ".join(option_list(num_epochs=2, batch_size_train=20)),
    "calibrate runs/ethanol": "calibrate runs/ethanol --false-alarm-rate 0.05 --run-length 10 --blocks 9",
    "--time 5": "--steps 20",
    "--max-time 60m": "--max-time 1s",
}
SHORTER_PYTHON = shorter_python(TINY)
WORDS = 200  # before the first picture and the first table are over


def blocks(readme: str, language: str) -> list[str]:
    """The code of all blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)


def shortened(code: str, shorter: dict[str, str]) -> str:
    for long, short in shorter.items():
        assert long in code, f"README has no {long} any more"
        code = code.replace(long, short)
    return code


@pytest.fixture(scope="module", autouse=True)
def _few_frames(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with few_bundled_frames(tmp_path_factory.mktemp("bundled")):
        yield


@pytest.fixture
def readme(root: Path) -> str:
    return (root / "README.md").read_text()


def test_the_commands_run(readme: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tblite")
    monkeypatch.chdir(tmp_path)
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    lines = shortened("".join(blocks(readme, "sh")), SHORTER_COMMANDS).splitlines()
    runs = [words for line in lines if (words := shlex.split(line, comments=True))[0] == "equimd"]
    assert len(runs) == 5
    for program, *words in (shlex.split(line, comments=True) for line in lines):
        if program == "make":
            assert set(words) <= targets
        elif program == "equimd":
            done = CliRunner().invoke(main.app, words)
            assert done.exit_code in (0, EXIT_HALTED), (words, done.output, done.exception)
        else:
            assert [program, *words] == [".", ".venv/bin/activate"]
    assert (tmp_path / "ethanol.html").stat().st_size > 10_000


def test_the_python_runs(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = shortened("".join(blocks(readme, "python")), SHORTER_PYTHON)
    names: dict[str, object] = {"__name__": "example", "SHORT": SHORT}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as said:
        warnings.simplefilter("ignore", equimd.errors.EquimdWarning)
        exec(compile(code, "README.md", "exec"), names)
    assert said.getvalue().split()[0] in ("completed", "halted")


def test_it_shows_before_it_tells(readme: str) -> None:
    picture, table = re.search(r"!\[.*?\]\(.*?\)", readme, re.DOTALL), re.search(r"(^\|.*\n)+", readme, re.MULTILINE)
    assert picture is not None and table is not None and picture.start() < table.start()
    told = readme[: table.end()].replace(picture[0], "")
    told = re.sub(r"^```.*?^```|<!--.*?-->|^\|.*\n|\]\(.*?\)", "", told, flags=re.DOTALL | re.MULTILINE)
    assert len(told.split()) <= WORDS
    assert "make demo" in told + "".join(blocks(readme, "sh")) and "make test" in readme


def test_links_lead_somewhere(readme: str, root: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", readme)
    assert len(links) > 10
    assert [link for link in links if "://" not in link and not (root / link).exists()] == []
    assert not re.search(r"<[a-z ]+>", re.sub(r"<!--.*?-->", "", readme))  # no place left to be filled in
