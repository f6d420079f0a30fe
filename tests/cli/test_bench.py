"""``equimd bench``: which suites there are, lists written with commas or spaces, errors of use."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from equimd.benchmarks.accuracy import accuracy_suite
from equimd.benchmarks.learning import learning_suite
from equimd.benchmarks.options import Options
from equimd.benchmarks.speed import speed_suite
from equimd.cli import main

runner = CliRunner()


def test_only_suites_that_are_there_are_listed() -> None:
    shown = runner.invoke(main.app, ["bench", "--help"]).output
    for name in ("guard", "accuracy", "speed", "conservation", "calibration", "detection", "learning"):
        there = importlib.util.find_spec(f"equimd.benchmarks.{name}") is not None
        assert (f"  {name} " in shown) == there, name
    assert "  report " in shown


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Options, dict]]:
    """What the suites are called with."""
    monkeypatch.setenv("EQUIMD_CACHE", str(tmp_path / "cache"))
    found: list[tuple[Options, dict]] = []

    def run(options: Options, **more: object) -> Path:
        found.append((options, more))
        table = tmp_path / "table.md"
        table.write_text("a table")
        return table

    monkeypatch.setattr(accuracy_suite, "run", run)
    monkeypatch.setattr(speed_suite, "run", run)
    monkeypatch.setattr(learning_suite, "run", run)
    return found


@pytest.mark.parametrize("words", [["ethanol", "aspirin"], ["ethanol,aspirin"], ["ethanol", "--molecules", "aspirin"]])
def test_lists_are_written_with_spaces_or_commas_or_again(words: list[str], calls: list) -> None:
    args = ["bench", "accuracy", "--molecules", *words, "--sizes", "50", "950", "--budget", "5m", "--acac"]
    result = runner.invoke(main.app, [*args, "--preset", "small", "--overwrite"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == "a table"
    options, more = calls[0]
    assert options.preset == "small"
    assert options.molecules == ("ethanol", "aspirin") and options.budget_s == 300.0
    assert more["sizes"] == (50, 950) and more["acac"] and not more["ccsd"]


def test_rmd17_can_be_left_out(calls: list) -> None:
    result = runner.invoke(main.app, ["bench", "accuracy", "--molecules", "none", "--ccsd", "--overwrite"])
    assert result.exit_code == 0, result.output
    options, more = calls[0]
    assert options.molecules == () and more["ccsd"] and not more["acac"]


def test_speed_takes_threads_runs_and_the_installed_peers(calls: list, tmp_path: Path) -> None:
    args = ["bench", "speed", "--threads", "1", "2", "--runs", f"ethanol={tmp_path}", "--quick", "--out", str(tmp_path)]
    result = runner.invoke(main.app, args)
    assert result.exit_code == 0, result.output
    options, more = calls[0]
    assert options.peers == () and options.out == tmp_path
    assert more == {
        "threads": (1, 2),
        "runs": {"ethanol": tmp_path},
        "quick": True,
        "parts": ("steps", "memory", "compile", "large"),
    }


def test_results_as_json(calls: list, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text('{"rows": []}')
    result = runner.invoke(main.app, ["bench", "speed", "--out", str(tmp_path), "--json"])
    assert json.loads(result.stdout) == {"rows": []}


def test_learning_takes_ways_sizes_and_seeds(calls: list, tmp_path: Path) -> None:
    args = ["bench", "learning", "--ways", "random", "logdet", "--sizes", "50", "80", "--seeds", "0", "2"]
    result = runner.invoke(main.app, [*args, "--budget", "20s", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    options, more = calls[0]
    assert options.seeds == (0, 2) and options.budget_s == 20.0
    assert more == {"ways": ("random", "logdet"), "sizes": [50, 80]}
    assert runner.invoke(main.app, ["bench", "learning", "--out", str(tmp_path)]).exit_code == 0
    options, more = calls[1]
    assert options.seeds == (0, 1, 2) and options.budget_s == 480.0
    assert len(more["ways"]) == 7 and more["sizes"] == [50, 100, 200]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["accuracy", "--budget", "soon"], "is not a time"),
        (["accuracy", "--molecules", "none"], "leaves nothing"),
        (["accuracy", "--variants", "both"], "--variants"),
        (["accuracy", "--sizes", "0"], "--sizes"),
        (["accuracy", "--preset", "huge"], "unknown preset 'huge'"),
        (["speed", "--peers", "schnetpack"], "make peers"),
        (["speed", "--peers", "vasp"], "unknown peer"),
        (["speed", "--parts", "all"], "--parts"),
        (["learning", "--ways", "best"], "--ways random,logdet"),
        (["learning", "--sizes", "100,50"], "ascending and above 25"),
        (["learning", "--sizes", "25,50"], "ascending and above 25"),
        (["report", "--out", "nowhere"], "no results here"),
    ],
)
def test_errors_of_use_exit_2(args: list[str], said: str, calls: list) -> None:
    result = runner.invoke(main.app, ["bench", *args, "--overwrite"])
    assert result.exit_code == 2 and not calls
    assert said in result.stderr


@pytest.mark.parametrize("suite", ["accuracy", "speed", "conservation", "learning", "report"])
def test_results_are_not_replaced_unasked(suite: str, calls: list, tmp_path: Path) -> None:
    (tmp_path / ("report.md" if suite == "report" else f"{suite}.json")).write_text("results")
    result = runner.invoke(main.app, ["bench", suite, "--out", str(tmp_path)])
    assert result.exit_code == 2 and not calls
    assert "the output file exists" in result.stderr and "--overwrite" in result.stderr
