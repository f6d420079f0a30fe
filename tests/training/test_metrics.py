"""Errors against values worked out by hand, and the table they are kept in."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
import torch

from equimd.config import TrainConfig
from equimd.data.batch import Batch
from equimd.progress import duration
from equimd.terminal import ProgressBar
from equimd.training.metrics import COLUMNS, SUMS, Loss, MetricsFile, RunningErrors, Unit, validate
from equimd.training.progress import EpochProgress, describe
from equimd.units import KCAL_PER_MOL
from tests.training.toy import toy_frames


def test_running_errors_are_sums_over_frames_and_components() -> None:
    running = RunningErrors()
    first = dict(zip(SUMS, (2.0, 0.3, 0.05, 1.2, 0.4, 2, 12, 5.0), strict=True))
    second = dict(zip(SUMS, (4.0, 0.1, 0.01, 0.6, 0.2, 1, 6, 7.0), strict=True))
    running.add(first)
    running.add(second)
    found = running.errors(TrainConfig())
    assert found["energy_mae"] == pytest.approx(0.4 / 3)
    assert found["energy_rmse"] == pytest.approx(math.sqrt(0.06 / 3))
    assert found["forces_mae"] == pytest.approx(1.8 / 18)
    assert found["forces_mse"] == pytest.approx(0.6 / 18)
    assert found["loss"] == pytest.approx(3.0)
    assert found["grad_norm"] == pytest.approx(6.0)


@pytest.mark.parametrize("loss", ["l2mae", "mse"])
@pytest.mark.parametrize("per_atom", [False, True])
def test_validation_counts_real_atoms_only_and_makes_the_training_loss(per_atom: bool, loss: Loss) -> None:
    frames = toy_frames(6, mixed=True)
    batch = Batch.from_frames(frames, 5.0, dtype=torch.float64)
    config = TrainConfig(energy_weight=0.3, forces_weight=0.7, energy_loss_per_atom=per_atom, loss=loss)

    def predict(b: Batch) -> dict[str, torch.Tensor]:
        real = (b.atomic_numbers > 0)[:, None]
        return {"energy": b.energy + 0.01 * b.n_atoms, "forces": b.forces - 0.02 * real}

    found = validate(predict, [batch], config)
    assert found["energy_mae"] == pytest.approx(0.01 * frames.n_atoms.mean())
    assert found["forces_mae"] == pytest.approx(0.02)
    assert found["forces_rmse"] == pytest.approx(0.02)
    power = 1 if loss == "l2mae" else 2
    energy_part = 0.01**power if per_atom else 0.01**power * (frames.n_atoms**power).mean()
    force_part = 0.02 * math.sqrt(3) if loss == "l2mae" else 0.02**2
    # the root in l2mae is smoothed below 1e-5 eV/A
    assert found["loss"] == pytest.approx(0.3 * energy_part + 0.7 * force_part, abs=1e-5)


def test_a_table_keeps_only_the_lines_a_checkpoint_knows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricsFile(path)
    for epoch in (1, 2, 3):
        table.append({"epoch": epoch, "step": 10 * epoch, "train_energy_mae": 0.0012, "train_forces_mse": 4e-6})
    resumed = MetricsFile(path, keep=2)
    resumed.append({"epoch": 3, "step": 30})
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    assert rows[0]["train_energy_mae_meV"] == "1.2"
    assert rows[0]["train_forces_mse_meV2_per_A2"] == "4"
    assert rows[2]["train_energy_mae_meV"] == ""
    assert len(rows[0]) == len(COLUMNS)


def test_units_and_times_read_well() -> None:
    assert describe({"energy_mae": 0.0012, "forces_mae": 0.0081}, Unit.of("meV")) == "E 1.20 F 8.10"
    assert describe({"energy_mae": KCAL_PER_MOL}, Unit.of("kcal/mol")) == "E 1.00"
    assert describe({"energy_mae": math.nan}, Unit.of("meV")) == ""
    assert [duration(s) for s in (41, 192, 7500)] == ["41s", "3m12s", "2h05m"]


def test_without_a_terminal_there_is_one_line_an_epoch() -> None:
    stream = io.StringIO()
    bar = EpochProgress(ProgressBar(stream), Unit.of("meV"))
    bar.update("1/2", 0.5, 10.0, {"energy_mae": 1.0}, {})
    bar.epoch("1/2", {"time_s": 10.0, "lr": 1e-3, "train_forces_mae": 0.03, "val_forces_mae": 0.04}, 0.5)
    assert stream.getvalue().splitlines() == ["epoch 1/2 | train F 30.0 | val F 40.0 | lr 1.0e-03 | 10s, 10s left"]


def test_a_terminal_gets_a_bar_with_live_errors_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    bar = EpochProgress(drawing := ProgressBar(stream), Unit.of("meV"))
    bar.update("3/9", 0.25, 10.0, {"energy_mae": 0.1, "forces_mae": 0.03}, {"val_forces_mae": 0.04})
    bar.end()
    shown = stream.getvalue()
    assert not drawing.screen.started
    for part in ("epoch 3/9", "25 %", "30s left", "train E 100 F 30.0", "val F 40.0"):
        assert part in shown
