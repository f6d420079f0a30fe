"""TAB, and --json: what every command offers."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from equimd.cli.commands import COMMANDS
from equimd.cli.main import app

#: Commands without --json, and why.
NO_RESULT = {
    "config template": "prints a YAML file",
    "config check": "prints a YAML file",
    "traj plot": "draws what traj analyse gives as JSON",
}


def tab(words: str) -> list[str]:
    """What bash is offered after ``equimd WORDS``."""
    environment = {
        "_EQUIMD_COMPLETE": "complete_bash",
        "COMP_WORDS": f"equimd {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    told = CliRunner().invoke(app, [], prog_name="equimd", env=environment)
    assert told.exit_code == 0, told.output
    return told.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("simu", ["simulate"]),
        ("train --pres", ["--preset"]),
        ("train --preset ", ["small", "default", "accurate"]),
        ("train --radial-basis ", ["bessel", "gaussian", "expnorm"]),
        ("train --loss ", ["l2mae", "mse"]),
        ("train --data bundled:ethanol-t", ["bundled:ethanol-train", "bundled:ethanol-test"]),
        ("evaluate runs/a --display-unit k", ["kcal/mol"]),
        ("simulate --ensemble n", ["nve", "nose-hoover"]),
        ("simulate --uq-threshold ", ["auto", "halt", "flag", "off"]),
        ("simulate --device c", ["cpu", "cuda"]),
        ("learn ethanol --calculator g", ["gfn2", "gfn1"]),
        ("data label frames.xyz --calculator e", ["emt"]),
        ("data list rmd17-", ["rmd17-full"]),
        ("data inspect --energy-unit k", ["kcal/mol", "kJ/mol"]),
        ("bench accuracy --preset s", ["small"]),
        ("simulate runs/a eth", ["ethanol"]),
        ("predict runs/a bundled:ethanol-1", ["bundled:ethanol-1000K"]),
        ("learn wat", ["water"]),
    ],
)
def test_tab_offers(words: str, offered: list[str]) -> None:
    assert sorted(tab(words)) == sorted(offered)


def _commands() -> Iterator[tuple[str, Any]]:
    """All commands that do something, by the words that call them."""
    root: Any = typer.main.get_command(app)
    for name in COMMANDS:
        command = root.get_command(None, name)
        below = getattr(command, "commands", None)
        yield from [(name, command)] if below is None else [(f"{name} {k}", each) for k, each in below.items()]


def test_every_command_with_a_result_gives_it_as_json() -> None:
    without = {name for name, command in _commands() if not any("--json" in p.opts for p in command.params)}
    assert without == NO_RESULT.keys()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_tab_in_bash_itself() -> None:
    """A shell on a terminal of its own, which breaks words at colons and equals signs as it does for users."""
    ours, its = pty.openpty()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PS1": "> ", "TERM": "dumb"}
    shell = ["bash", "--norc", "--noprofile", "-i"]
    with subprocess.Popen(shell, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True) as bash:
        try:
            os.write(ours, b'eval "$(equimd --show-completion bash)"; complete -p equimd\n')
            _read_until(ours, "-F _equimd_completion equimd\r\n")
            for typed, added in (("--data bundled:ethanol-te", "st "), ("--preset=ac", "curate ")):
                os.write(ours, f"equimd train {typed}\t".encode())
                _read_until(ours, f"{typed}{added}")
                os.write(ours, b"\x15")  # takes the line away
        finally:
            bash.kill()
            os.close(ours)
            os.close(its)


def _read_until(terminal: int, end: str) -> None:
    seen, until = "", time.monotonic() + 60.0
    while end not in seen:
        assert select.select([terminal], [], [], max(until - time.monotonic(), 0.0))[0], seen
        seen += os.read(terminal, 4096).decode()
