"""Time to accuracy: when a training counts as there, and what its rows say."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from equimd.benchmarks.options import Options
from equimd.benchmarks.speed import speed_tables, target
from equimd.errors import MachineError


def test_the_target_is_met_by_the_first_validation_at_or_below_it(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    assert not target.first_at(table, 10.0)
    table.write_text(f"epoch,{target.VALIDATION}\n1,12.5\n2,\n")  # the second epoch was not validated
    assert not target.first_at(table, 10.0)
    table.write_text(table.read_text() + "3,10.0\n")
    assert target.first_at(table, 10.0)


def _until(tmp_path: Path, program: str, reached: Path, limit: float) -> dict[str, float]:
    command = [sys.executable, "-c", program, str(reached)]
    return target.seconds_until(command, reached.exists, limit, os.environ, tmp_path / "log")


def test_a_training_is_stopped_when_it_is_there(tmp_path: Path) -> None:
    program = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    found = _until(tmp_path, program, tmp_path / "there", 60.0)
    assert found["reached"] and 0 < found["seconds"] < 60


def test_a_training_that_is_not_there_in_time_counts_as_all_of_it(tmp_path: Path) -> None:
    found = _until(tmp_path, "import time; time.sleep(600)", tmp_path / "there", 0.5)
    assert found == {"seconds": 0.5, "reached": False}


def test_a_training_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="exit code 7"):
        _until(tmp_path, "raise SystemExit(7)", tmp_path / "there", 60.0)
    assert (tmp_path / "log").exists()


def test_rows_are_medians_over_seeds_and_name_what_was_not_reached() -> None:
    def one(seed: int, cold: float, warm: float, peer: float, reached: bool = True) -> dict[str, object]:
        times = {target.COLD: cold, target.WARM: warm, target.PEER: peer}
        measured = {who: {"seconds": t, "reached": reached or who != target.PEER} for who, t in times.items()}
        return {"molecule": "ethanol", "seed": seed, "target": 10.0, "measured": measured}

    found = [one(0, 300.0, 200.0, 1200.0), one(1, 400.0, 200.0, 800.0), one(2, 200.0, 100.0, 2700.0, reached=False)]
    rows = {r.name.rsplit("/", 1)[1]: r for r in target.rows(found, Options(()))}
    assert rows["seconds_equimd"].value == 300.0 and rows["seconds_schnetpack"].value == 1200.0
    cold, warm = rows["target_ratio_cold_vs_schnetpack"], rows["target_ratio_warm_vs_schnetpack"]
    assert cold.per_seed == {"0": 4.0, "1": 2.0, "2": 13.5} and cold.value == 4.0 and warm.value == 6.0
    assert "not reached: schnetpack, seed 2" in cold.preset and "not reached" not in rows["seconds_equimd"].preset
    lines = speed_tables._target_lines("ethanol", {name: vars(row) for name, row in rows.items()})
    assert lines[0] == "| ethanol | equimd, cold | 300 | 300, 400, 200 | to 10 meV/A |"
    assert lines[-1] == "| ethanol | SchNetPack PaiNN over equimd, warm | 6.00 x | 6.00, 4.00, 27.00 | |"
