"""The speed suite: who takes part, turns, rows, tables; measurements are not repeated, unless something changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimd.benchmarks.options import Options
from equimd.benchmarks.results import merge
from equimd.benchmarks.speed import speed_suite, speed_tables
from equimd.benchmarks.speed.speed_suite import Effort, SpeedCase
from equimd.errors import ConfigError

TIMES = {"equimd": 2.0, "equimd-run": 2.0, "equimd-guard": 2.2, "equimd-single": 0.25, "schnetpack": 8.0, "gemm": 1.0}


class FakeWorker:
    """Takes as long as ``TIMES`` says, times the load of its round."""

    turns: list[str] = []  # noqa: RUF012 (shared on purpose)

    def __init__(self, label: str) -> None:
        self.label, self.count = label, 0

    def ask(self, op: str, **_: Any) -> dict[str, float]:
        FakeWorker.turns.append(self.label)
        self.count += 1
        milliseconds = TIMES[self.label] * (10.0 if self.count == 2 else 1.0)  # something else ran in round two
        return {"steps": 5, "cpu_s": 5e-3 * milliseconds, "wall_s": 6e-3 * milliseconds}


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    for molecule in ("ethanol", "aspirin"):
        for part in ("train", "test"):
            np.savez(tmp_path / f"rmd17_{molecule}_{part}_01.npz", coords=np.zeros(1))

    @contextmanager
    def fake(tasks: list, threads: int, logs: Path) -> Iterator[tuple]:
        workers = {label: FakeWorker(label) for label, _ in tasks if label != "mace"}
        about = {k: {"model": f"model of {k}", "frames": t["batch"] if k != "gemm" else 10**8} for k, t in tasks}
        yield workers, about, {"mace": "it broke"}

    monkeypatch.setattr(speed_suite, "prepared", fake)
    FakeWorker.turns.clear()
    return Options(
        (tmp_path,), ("ethanol",), peers=("schnetpack", "mace"), out=tmp_path / "out", work=tmp_path / "work"
    )


def values(rows: list, start: str) -> dict[str, float]:
    return {r.name.removeprefix(start + "/"): r.value for r in rows if r.name.startswith(start + "/")}


def test_measured_in_turns_and_compared_within_a_round(options: Options) -> None:
    case = SpeedCase("ethanol", 1, "md")
    found = speed_suite.compare(case, options, {"ethanol": options.out}, Effort(3, 0.1, 0.0))
    order = ["equimd", "equimd-run", "equimd-guard", "schnetpack", "gemm"]
    assert FakeWorker.turns == order * 3
    assert found["failed"] == {"mace": "it broke"}
    rows = speed_tables.step_rows(case, found)
    got = values(rows, "speed/ethanol/1/md")
    assert got["cpu_ms_equimd"] == pytest.approx(2.0) and got["wall_ms_schnetpack"] == pytest.approx(9.6)
    assert got["ratio_vs_schnetpack"] == pytest.approx(4.0)
    assert got["guard_ratio"] == pytest.approx(1.1)
    # 16.7 MFLOP x 2 in 2 ms, over 1e8 flop in 1 ms
    assert got["gemm_peak"] == pytest.approx(100.0)
    assert got["work_over_gemm_peak_equimd"] == pytest.approx(16.7 * 2 / 2.0 / 100.0)
    for row in rows:
        assert re.fullmatch(r"[\w-]+(/[\w-]+){4}", row.name), row.name


def test_training_work_counts_frames_and_six_forward_passes(options: Options) -> None:
    case = SpeedCase("aspirin", 10, "train")
    got = values(
        speed_tables.step_rows(case, speed_suite.compare(case, options, {}, Effort(1, 0.1, 0))),
        "speed/aspirin/10/train",
    )
    assert got["work_over_gemm_peak_schnetpack"] == pytest.approx(45.3 * 6 * 10 / 8.0 / 100.0)
    assert "guard_ratio" not in got and "frames_per_cpu_s_equimd" not in got


def test_replicas_count_frames_and_several_threads_compare_wall_time(options: Options) -> None:
    case = SpeedCase("ethanol", 32, "md", threads=2)
    rows = speed_tables.step_rows(case, speed_suite.compare(case, options, {}, Effort(3, 0.1, 0)))
    got = values(rows, "speed/ethanol/32/md-2threads")
    assert got["frames_per_cpu_s_equimd"] == pytest.approx(32 / 2e-3)
    assert got["ratio_vs_schnetpack"] == pytest.approx(4.0)
    assert got["replicas_ratio"] == pytest.approx(32 * 0.25 / 2.0)
    assert "gemm_peak" not in got


def test_finished_measurements_are_kept(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    made = []

    def measure() -> dict[str, Any]:
        made.append(1)
        return {"measured": {}}

    for key in ({"rounds": 3}, {"rounds": 3}, {"rounds": 4}):
        speed_suite.kept("ethanol/1/md", key, measure, options=options)
    assert len(made) == 2
    assert "measured before" in capsys.readouterr().err


def test_tables_say_what_was_measured(options: Options) -> None:
    table = speed_suite.run(options, quick=True, parts=("steps",), runs={"ethanol": options.out}).read_text()
    assert "| ethanol | 1 | md | SchNetPack PaiNN | 8 | 9.6 | " in table
    assert "| 4.00 |" in table and "equimd, guard on (1.10 x off)" in table
    assert "| ethanol | 32 | equimd | 16000 |" in table and "one after the other (at once: 4.00 x the frames)" in table
    assert "- model of schnetpack" in table
    assert (options.out / "speed.png").stat().st_size > 5000


def test_memory_and_first_steps_have_rows(tmp_path: Path) -> None:
    case = {"molecule": "aspirin", "batch": 64, "what": "train", "threads": 1}
    measured = {
        "equimd": {"model": "m", "steps_MiB": 800.0, "process_MiB": 1500.0},
        "schnetpack": {"model": "s", "steps_MiB": 1000.0, "process_MiB": 1100.0},
    }
    rows = speed_tables.memory_rows({"case": case, "measured": measured})
    assert values(rows, "speed/aspirin/64/train")["memory_ratio_vs_schnetpack"] == pytest.approx(1.25)
    first = {"equimd": {"model": "m", "cold_wall_s": 60.0, "cold_cpu_s": 90.0, "warm_wall_s": 9.0, "warm_cpu_s": 8.0}}
    rows += speed_tables.first_step_rows(SpeedCase("ethanol", 1, "md"), {"measured": first})
    table = speed_tables.markdown(merge(tmp_path / "speed.json", "speed", rows, {}))
    assert "| aspirin | 64 | equimd | 800 | 1500 |" in table
    assert "| ethanol | 1 | md | equimd | 60.0 | 9.0 |" in table


def test_runs_are_named_by_molecule(tmp_path: Path) -> None:
    assert speed_suite.parse_runs([f"ethanol={tmp_path}"]) == {"ethanol": tmp_path}
    with pytest.raises(ConfigError, match="--runs ethanol=RUN"):
        speed_suite.parse_runs([str(tmp_path)])
    with pytest.raises(ConfigError):
        speed_suite.parse_runs(["ethanol=/nowhere"])


def test_spread_is_half_the_quartiles_over_the_median() -> None:
    assert speed_suite.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1 / 3)
    assert speed_suite.spread([2.0]) == 0.0
