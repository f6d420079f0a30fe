"""The command line itself: help without heavy imports, versions, option spelling, errors and their exit codes."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from equimd.cli import common, main
from equimd.cli.commands import Command
from equimd.errors import DataError, MachineError

runner = CliRunner()
HEAVY = ("torch", "e3nn", "numpy", "scipy", "ase", "h5py", "matplotlib", "pydantic", "laplace")


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


def _raise(error: BaseException) -> None:
    raise error


ERRORS = {
    "data": (
        lambda: DataError("NaN in forces", where="a.npz, frame 3", hint="drop it"),
        2,
        "a.npz, frame 3: NaN in forces",
    ),
    "machine": (lambda: MachineError("no route to host"), 1, "no route to host"),
    "missing": (lambda: FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a.npz"), 2, "a.npz: No such file"),
    "full": (lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "m.pt"), 1, "m.pt: the disk is full"),
    "full-hdf5": (lambda: OSError("Can't write (errno = 28, 'No space left on device')"), 1, "the disk is full"),
    "io": (lambda: OSError(errno.EIO, os.strerror(errno.EIO)), 1, os.strerror(errno.EIO)),
    "memory": (MemoryError, 1, "--batch-size-train"),
    "gpu-memory": (lambda: OutOfMemoryError("x"), 1, "out of memory"),
    "cpu-memory": (lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "out of memory"),
    "ctrl-c": (KeyboardInterrupt, 130, "interrupted"),
}


@pytest.fixture
def command() -> Iterator[Callable[..., typer.Typer]]:
    """Add a command of the test's own under a name."""
    added = []

    def add(name: str, run: typer.Typer | Callable[..., None]) -> typer.Typer:
        main.COMMANDS.add(name, Command(f"the {name} of a test", run))
        added.append(name)
        return main.app

    yield add
    for name in added:
        main.COMMANDS.remove(name)


def _run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom equimd.cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        f"print('heavy:', *(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)"
    )
    done = _run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["heavy:"]
    for name in main.COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_command_help_does_not_import_torch(name: str) -> None:
    code = (
        "import sys\nfrom equimd.cli.main import app\n"
        f"try: app([{name!r}, '--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print('heavy:', *(m for m in ('torch', 'e3nn', 'ase', 'matplotlib') if m in sys.modules), file=sys.stderr)"
    )
    done = _run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["heavy:"]


def _all_commands() -> list[tuple[str, ...]]:
    paths: list[tuple[str, ...]] = []
    for name in main.COMMANDS:
        children = getattr(main._build(name), "commands", None)
        paths += [(name, child) for child in children] if children else [(name,)]
    return paths


def test_every_command_has_examples_that_start_with_its_name() -> None:
    paths = _all_commands()
    assert len(paths) >= len(main.COMMANDS)
    for path in paths:
        shown = runner.invoke(main.app, [*path, "--help"]).output
        assert "Examples:" in shown, path
        examples = [line.strip() for line in shown.split("Examples:")[1].splitlines()]
        assert any(line.startswith(" ".join(("equimd", *path))) for line in examples), path


def test_help_fits_80_columns_and_lists_commands_in_whole_sentences() -> None:
    groups = [(), *((name,) for name in main.COMMANDS if hasattr(main._build(name), "commands"))]
    for path in [*groups, *_all_commands()]:
        lines = runner.invoke(main.app, [*path, "--help"], terminal_width=80).output.splitlines()
        assert max(map(len, lines)) <= 80, path
        assert path not in groups or not any(line.endswith("...") for line in lines[1:]), path


def test_times_are_given_and_shown_with_their_unit() -> None:
    shown = " ".join(runner.invoke(main.app, ["learn", "--help"]).output.split())
    assert "such as 45m or 2h [default: 2h]" in shown and "may take [default: 1h]" in shown
    shown = " ".join(runner.invoke(main.app, ["train", "--help"]).output.split())
    assert "--pretrain-time <str>" in shown and "[default: 1m]" in shown


def test_version_names_all_parts() -> None:
    import torch

    result = runner.invoke(main.app, ["--version"])
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    assert list(lines) == ["equimd", "torch", "e3nn", "device"]
    assert lines["torch"] == torch.__version__


@pytest.mark.parametrize("args", [[], ["trian"], ["--no-such-option"], ["thing"], ["thing", "--number", "x"]])
def test_usage_errors_exit_2_without_traceback(args: list[str], command) -> None:
    def thing(number: Annotated[int, typer.Option()]) -> None:
        """Print a number."""

    result = runner.invoke(command("thing", thing), args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    if args == ["trian"]:
        assert "did you mean 'train'?" in result.stderr


@pytest.mark.parametrize("spelling", ["--num-epochs", "--num_epochs"])
def test_options_take_hyphens_or_underscores(spelling: str, command) -> None:
    def thing(num_epochs: Annotated[int, typer.Option()], splits: tuple[int, int, int] = (1, 1, 1)) -> None:
        """Print a number."""
        common.echo_json({"n": num_epochs, "splits": splits})

    result = runner.invoke(command("thing", thing), ["thing", spelling, "7", "--splits", "5", "6", "7"])
    assert json.loads(result.stdout) == {"n": 7, "splits": [5, 6, 7]}, result.output


def test_sub_app_with_one_command(command) -> None:
    app = common.sub_app("Parts of a thing.")

    @app.command("show-all")
    def show(dry_run: bool = False) -> None:
        """Show the parts.

        Examples:

            equimd thing show-all
            equimd thing show-all --dry-run
        """
        print("dry" if dry_run else "wet")

    app = command("thing", app)
    assert "Parts of a thing." in runner.invoke(app, ["thing", "--help"]).output
    assert runner.invoke(app, ["thing", "show-all", "--dry_run"]).stdout == "dry\n"
    shown = runner.invoke(app, ["thing", "show-all", "--help"]).output
    assert "      equimd thing show-all\n      equimd thing show-all --dry-run\n" in shown


@pytest.mark.parametrize("name", list(ERRORS))
def test_errors_become_one_message_and_an_exit_code(name: str, command) -> None:
    make, code, text = ERRORS[name]
    result = runner.invoke(command("thing", lambda: _raise(make())), ["thing"])
    assert result.exit_code == code
    assert text in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIMD_DEBUG", "1")
    result = runner.invoke(command("thing", lambda: _raise(DataError("bad"))), ["thing"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_a_fault_of_the_program_is_not_hidden(command) -> None:
    result = runner.invoke(command("thing", lambda: _raise(ZeroDivisionError("bug"))), ["thing"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_json_is_strict_and_knows_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    common.echo_json(
        {"a": np.array([[1.5, np.nan]]), "b": np.float32(2), "c": Path("x"), "d": float("inf"), "e": np.bool_(True)}
    )
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=pytest.fail) == {"a": [[1.5, None]], "b": 2.0, "c": "x", "d": None, "e": True}
    with pytest.raises(TypeError, match="object"):
        common.echo_json({"a": object()})


def test_what_is_said_twice_running_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("equimd.test")
    with common.shown_notices():
        for message in ("a", "a", "b", "a"):
            logger.info(message)
    assert capsys.readouterr().err.split() == ["a", "b", "a"]


def test_warnings_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import warnings\nfrom equimd.cli.common import shown_notices\n"
        "with shown_notices(): warnings.warn('frames are neighbours in time')"
    )
    done = _run_python(code)
    assert done.stderr == "warning: frames are neighbours in time\n"
