"""The accuracy suite: protocols as commands, what is not repeated, rows, tables with published figures beside."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from equimd.benchmarks import results, search
from equimd.benchmarks.accuracy import accuracy_suite, accuracy_tables
from equimd.benchmarks.options import Options
from equimd.benchmarks.results import Row, merge
from equimd.config import RunConfig, config_text, parse_config
from equimd.errors import DataError, MachineError

ERRORS = {
    "energy_mae_meV": 1.0,
    "forces_mae_meV_per_A": 7.5,
    "energy_rmse_meV": 2.0,
    "forces_rmse_meV_per_A": 12.25,
}


@pytest.fixture
def options(tmp_path: Path) -> Options:
    names = [
        f"rmd17_{m}_{p}_{s}.npz" for m in ("ethanol", "salicylic") for p in ("train", "test") for s in ("01", "02")
    ]
    names += ["train_300K.xyz", "test_MD_300K.xyz", "test_MD_600K.xyz", "ethanol_ccsd_t-train.npz"]
    for name in names:
        (tmp_path / name).write_text(name)
    return Options((tmp_path,), ("ethanol",), budget_s=300.0, out=tmp_path / "out", work=tmp_path / "work")


@pytest.fixture
def ethanol(options: Options) -> Options:
    """With training frames of ethanol that can be read."""
    atoms = molecule("CH3CH2OH")
    positions = np.repeat(atoms.positions[None], 20, axis=0)
    labels = {"energies": np.zeros(20), "forces": np.zeros_like(positions)}
    np.savez(options.data[0] / "rmd17_ethanol_train_01.npz", nuclear_charges=atoms.numbers, coords=positions, **labels)
    return options


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """equimd's commands as they would be called; a training leaves the run folder it would."""
    called: list[list[str]] = []

    def run(*arguments: str) -> str:
        called.append(list(arguments))
        if arguments[0] == "train":
            folder = Path(arguments[arguments.index("--out" if "--out" in arguments else "--resume") + 1])
            folder.mkdir(parents=True, exist_ok=True)
            seed = arguments[arguments.index("--seed") + 1] if "--seed" in arguments else "0"
            values = {"max_time": "5m", "seed": int(seed), "data": "/somewhere/x_train_01.npz"}
            (folder / "config.yaml").write_text(config_text(parse_config(values)))
            if "--test-data" in arguments:
                (folder / "test.json").write_text(json.dumps(ERRORS))
        return json.dumps({**ERRORS, "forces_rmse_meV_per_A": 40.0})

    monkeypatch.setattr(accuracy_suite, "equimd", run)
    return called


def test_rmd17_is_trained_by_the_published_protocol_once(options: Options, commands: list[list[str]]) -> None:
    table = accuracy_suite.run(options, splits=("01", "02")).read_text()
    first = " ".join(commands[0])
    assert (
        "--splits 950 50 0" in first and "rmd17_ethanol_train_01.npz" in first and "rmd17_ethanol_test_01.npz" in first
    )
    assert "--preset small --forces conservative --max-time 5m --threads 1 --seed 0" in first
    assert len(commands) == 2
    accuracy_suite.run(options, splits=("01", "02"))
    assert len(commands) == 2  # nothing finished is repeated
    assert "| ethanol | 02 | equimd, conservative | 5 min, 1 thread | 1.00 | 7.50 |" in table
    assert "| ethanol | - | NequIP, published | - | 0.4 | 2.8 |" in table
    rows = json.loads((options.out / "accuracy.json").read_text())["rows"]
    assert {r["name"] for r in rows if "forces_mae" in r["name"]} == {
        f"rmd17/ethanol/{s}/conservative/forces_mae_meV_per_A" for s in ("01", "02")
    }
    assert rows[0]["command"] == "equimd train --data x_train_01.npz --max-time 5m"


def test_a_preset_that_was_asked_for_has_runs_and_rows_of_its_own(
    options: Options, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy_suite.run(options)
    monkeypatch.setattr(accuracy_suite, "settings", lambda run: {"preset": "accurate", "max_time": 9000.0, "lr": 0.002})
    asked = replace(options, preset="accurate", budget_s=9000.0)
    table = accuracy_suite.run(asked).read_text()
    assert "--preset accurate --forces conservative --max-time 150m" in " ".join(commands[1])
    assert "| ethanol | 01 | equimd, conservative, accurate; --lr 0.002 | 2.5 h, 1 thread | 1.00 | 7.50 |" in table
    assert "| ethanol | 01 | equimd, conservative | 5 min, 1 thread | 1.00 | 7.50 |" in table
    accuracy_suite.run(asked)
    assert len(commands) == 2


def test_force_errors_stand_over_the_published_ones(tmp_path: Path) -> None:
    rows = [
        Row(f"rmd17/{molecule}/01/{variant}/{m}", v, "meV", "c", "default", 2700.0, 950, 0)
        for molecule in ("malonaldehyde", "uracil")
        for variant in ("conservative", "direct", "schnetpack-painn")
        for m, v in ERRORS.items()
    ]
    text = accuracy_tables.markdown(merge(tmp_path / "accuracy.json", "accuracy", rows, {}))
    ratios = [line for line in text.splitlines() if line.count("|") == 8 and "equimd" in line]
    assert ratios == [
        "| malonaldehyde | 01 | equimd, conservative | 45 min, 1 thread | 0.54 | 1.47 | 1.50 |",
        "| uracil | 01 | equimd, conservative | 45 min, 1 thread | - | - | - |",
    ]


def test_an_interrupted_training_is_resumed(options: Options, commands: list[list[str]]) -> None:
    problem = accuracy_suite.rmd17(options.data, "ethanol")
    (options.work / "accuracy" / "ethanol-01-direct-5m-seed0").mkdir(parents=True)
    run = accuracy_suite.train(problem, "direct", 0, options)
    assert commands == [["train", "--resume", str(run)]]


def test_pretrained_models_stand_beside_those_without(
    options: Options, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy_suite.run(options)
    monkeypatch.setattr(accuracy_suite, "settings", lambda run: {"pretrain": "gfn2", "max_time": 300.0})
    table = accuracy_suite.run(options, pretrain="gfn2").read_text()
    assert len(commands) == 2 and "--pretrain" not in commands[0]
    assert "--pretrain gfn2" in " ".join(commands[1])
    assert "| ethanol | 01 | equimd, conservative | 5 min, 1 thread | 1.00 | 7.50 |" in table
    told = "equimd, conservative, pretrained; --pretrain gfn2"
    assert f"| ethanol | 01 | {told} | 5 min, 1 thread | 1.00 | 7.50 |" in table


def test_learning_curves_and_seeds_have_rows_of_their_own(options: Options, commands: list[list[str]]) -> None:
    table = accuracy_suite.run(replace(options, seeds=(0, 3)), sizes=(50, 950)).read_text()
    names = [r["name"] for r in json.loads((options.out / "accuracy.json").read_text())["rows"]]
    assert "rmd17/ethanol/01-n50/conservative-seed3/forces_mae_meV_per_A" in names
    assert len(names) == len(set(names)) == 2 * 2 * 4
    assert "| ethanol | equimd, conservative | 50 | 5 min | 1.00 | 7.50 |" in table
    assert "equimd, conservative, seed 3" in table
    assert [c[c.index("--splits") + 1] for c in commands] == ["50", "50", "950", "950"]
    for name in names:
        assert re.fullmatch(r"[\w-]+(/[\w-]+){4}", name), name


def test_learning_curves_are_drawn_from_all_sizes(tmp_path: Path) -> None:
    def rows(split: str, n: int, error: float) -> list[Row]:
        errors = {**ERRORS, "forces_mae_meV_per_A": error}
        name = f"rmd17/ethanol/{split}/conservative"
        return [Row(f"{name}/{m}", v, "meV", "c", "default", 2700.0, n, 0) for m, v in errors.items()]

    path = tmp_path / "accuracy.json"
    found = merge(path, "accuracy", rows("01", 950, 3.0), {})
    assert not accuracy_tables.plot_curves(found, tmp_path / "curves.png")
    found = merge(path, "accuracy", [*rows("01-n200", 200, 8.0), *rows("01-n50", 50, 20.0)], {})
    lines = [
        line for line in accuracy_tables.markdown(found).splitlines() if line.count("|") == 7 and "45 min |" in line
    ]
    assert [line.split(" | ")[2:] for line in lines] == [
        ["50", "45 min", "1.00", "20.00 |"],
        ["200", "45 min", "1.00", "8.00 |"],
        ["950", "45 min", "1.00", "3.00 |"],
    ]
    accuracy_tables.write(found, tmp_path)
    assert (tmp_path / "accuracy-curves.png").stat().st_size > 1000


def test_acetylacetone_is_tested_hot_and_ccsd_on_what_is_left(options: Options, commands: list[list[str]]) -> None:
    table = accuracy_suite.run(replace(options, molecules=()), acac=True, ccsd=True).read_text()
    assert [c[0] for c in commands] == ["train", "evaluate", "train", "evaluate"]
    assert commands[1][-2].endswith("test_MD_600K.xyz")
    assert "| acetylacetone | 300K-300K | equimd, conservative | 5 min, 1 thread | 2.00 | 12.25 |" in table
    assert "| acetylacetone | 300K-600K | equimd, conservative | 5 min, 1 thread | 2.00 | 40.00 |" in table
    assert "| ethanol | random | equimd, conservative | 5 min, 1 thread | 1.00 | 7.50 |" in table
    assert " ".join(commands[2]).count("--splits 750 50 200") == 1


def test_the_published_test_file_is_used_where_it_is(options: Options) -> None:
    (options.data[0] / "ethanol_ccsd_t-test.npz").touch()
    problem = accuracy_suite.coupled_cluster(options.data)
    assert problem.counts == (950, 50, 0) and problem.tests[0][1].name == "ethanol_ccsd_t-test.npz"


def test_unknown_molecules_and_splits_are_refused(options: Options) -> None:
    with pytest.raises(DataError, match="no water 01"):
        accuracy_suite.rmd17(options.data, "water")
    with pytest.raises(DataError, match="splits 01, 02"):
        accuracy_suite.rmd17(options.data, "ethanol", "06")
    with pytest.raises(DataError, match="equimd data fetch rmd17 uracil"):
        accuracy_suite.rmd17(options.data, "uracil")


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(MachineError, match="equimd config --no-such-option: failed with exit code 2"):
        accuracy_suite.equimd("config", "--no-such-option")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, {}),
        ({"preset": "small", "lr": 0.002}, {"preset": "small", "lr": 0.002}),
        ({"num_tensors": 128, "lr": 1e-3}, {"preset": "accurate"}),
        ({"preset": "accurate", "num_layers": 4}, {"preset": "accurate", "num_layers": 4}),
        ({"num_layers": 4}, {"num_layers": 4}),
        ({"radial_basis": "gaussian"}, {"radial_basis": "gaussian"}),
    ],
)
def test_what_a_run_states_is_said_beside_the_nearest_preset(tmp_path: Path, values, said) -> None:
    (tmp_path / "config.yaml").write_text(config_text(parse_config(values)))
    assert accuracy_suite.settings(tmp_path) == said


def test_small_presets_are_named_in_tables(tmp_path: Path) -> None:
    rows = [
        Row(f"rmd17/ethanol/01/conservative-small/{m}", v, "meV", "c", "small, --lr 0.1", 60.0, 950, 0)
        for m, v in ERRORS.items()
    ]
    text = accuracy_tables.markdown(merge(tmp_path / "accuracy.json", "accuracy", rows, {}))
    assert "| equimd, conservative, small; --lr 0.1 |" in text


def test_each_try_is_trained_once_and_the_best_comes_first(ethanol: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def train(data: Path, settings: dict, folder: Path) -> dict:
        asked.append(settings)
        error = {1: 20.0, 2: 15.0}.get(settings.get("lmax"), 12.0)
        return {**dict.fromkeys(search.METRICS, error), "command": "equimd train"}

    monkeypatch.setattr(search, "_train", train)
    tries = ("Gaussians, lmax 1", "default", "energy weight 0.01")
    for _ in range(2):
        lines = search.run(ethanol, tries=tries).read_text().splitlines()
    assert len(asked) == 3
    found = [line.split(" | ")[1] for line in lines if line.startswith("| ethanol")]
    assert found == ["default", "energy weight 0.01", "Gaussians, lmax 1"]
    rows = json.loads((ethanol.out / "search.json").read_text())["rows"]
    trained = {row["name"].split("/")[3] for row in rows if row["unit"] != "MFLOP"}
    assert trained == {"default", "Gaussians-lmax-1", "energy-weight-0_01"}
    work = [float(line.split(" | ")[-1].strip(" |")) for line in lines if line.startswith("| ethanol")]
    assert work[1] > work[0] > 2 * work[2] > 0  # of a step, by count


def test_an_interrupted_try_is_resumed(ethanol: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def equimd(command: list[str], **_: object) -> subprocess.CompletedProcess:
        calls.append(command)
        if len(calls) == 1:
            Path(command[command.index("--out") + 1]).mkdir(parents=True)
            return subprocess.CompletedProcess(command, 130)
        run = Path(command[command.index("--resume") + 1])
        columns = [*(m for m in search.METRICS if m != "seconds"), "time_s"]
        (run / "metrics.csv").write_text(",".join(columns) + "\n" + ",".join(["9"] * len(columns)) + "\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", equimd)
    with pytest.raises(KeyboardInterrupt):
        search.run(ethanol, tries=("lmax 1",))
    lines = search.run(ethanol, tries=("lmax 1",)).read_text().splitlines()
    assert [line for line in lines if line.startswith("| ethanol | lmax 1 | 9.0 |")]
    assert len(calls) == 2 and not [p for p in (ethanol.work / "search").iterdir() if p.is_dir()]


def test_settings_are_written_as_options() -> None:
    assert accuracy_suite.option("max_time", 2700.0) == ["--max-time", "45m"]
    assert accuracy_suite.option("data", ["/a/b.npz", "c.npz"]) == ["--data", "b.npz", "c.npz"]
    assert accuracy_suite.option("tensorboard", True) == ["--tensorboard"]
    assert RunConfig().training.tensorboard is False


def test_published_figures_are_numbers_of_known_molecules() -> None:
    for table in accuracy_tables.RMD17.values():
        assert set(table) <= set(accuracy_suite.MOLECULES)
        for energy, forces in table.values():
            assert 0 < accuracy_tables.figure(energy) < 10 and 0 < accuracy_tables.figure(forces) < 20
    assert accuracy_tables.figure("4.1-5.0") == 5.0


def test_the_report_joins_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results here"):
        results.join(tmp_path)
    rows = [
        Row(f"rmd17/ethanol/01/conservative/{m}", v, "meV", "c", "default", 60.0, 950, 0) for m, v in ERRORS.items()
    ]
    accuracy_tables.write(merge(tmp_path / "accuracy.json", "accuracy", rows, {}), tmp_path)
    text = results.join(tmp_path).read_text()
    assert text.startswith("# Benchmarks\n\n## Accuracy\n") and "![accuracy](accuracy.png)" in text
    assert "speed" not in text
