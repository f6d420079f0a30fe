"""The summary of trajectories whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from equimd.data.system import System
from equimd.guard.limits import Limits
from equimd.md import summary
from equimd.md.trajectory import Frame, TrajectoryWriter
from tests.potentials import WATER, WATER_POSITIONS

SYSTEM = System.build(WATER)
LIMITS = Limits.from_reference(SYSTEM, torch.tensor(WATER_POSITIONS))
STEP = 2.0  # fs between frames


def trajectory(
    path: Path, length: int, *, slope: float = 0.0, heat: float = 300.0, stretch_at: int | None = None
) -> Path:
    """A molecule at rest in space whose atoms swing with a period of 20 frames; a bond that grows by 0.6 Angstrom."""
    writer = TrajectoryWriter(path, SYSTEM)
    for k in range(length):
        x = WATER_POSITIONS.copy()
        if stretch_at is not None and k >= stretch_at:
            bond = x[1] - x[0]
            x[1] += 0.6 * bond / np.linalg.norm(bond)
        v = np.full((3, 3), np.cos(2 * np.pi * k / 20))
        observables = {"temperature": heat, "conserved": slope * k * STEP}
        writer.append(Frame(4 * k, STEP * k, x, v, 0 * v, observables))
    writer.flush()
    return path


@pytest.mark.parametrize("block", [7, 2000])
def test_of_known_trajectories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(summary, "BLOCK", block)
    paths = [
        trajectory(tmp_path / "a.h5", 100, slope=3e-6, heat=200.0),
        trajectory(tmp_path / "b.h5", 60, slope=9e-6, heat=360.0, stretch_at=41),
        tmp_path / "halted-before-its-first-frame.h5",
    ]
    found = summary.summarize(paths, LIMITS)
    assert found["n_frames"] == 160
    assert found["temperature_K_mean"] == pytest.approx((100 * 200 + 60 * 360) / 160)
    # 3e-6 eV/fs over three atoms is 1 meV/atom/ps
    assert found["drift_of_replicas"] == pytest.approx([1.0, 3.0])
    assert found["drift_meV_per_atom_per_ps"] == pytest.approx(2.0)
    assert found["drift_error"] == pytest.approx(0.0, abs=1e-9)
    first, second = found["bonds"]["replicas"]
    assert first["unstable_after_ps"] is None
    assert second["unstable_after_ps"] == pytest.approx(41 * STEP / 1000)
    assert second["largest_deviation_A"] == pytest.approx(0.6)
    assert second["atoms"] == [0, 1]
    assert found["bonds"]["n_unstable"] == 1
    h, r = np.array(found["distances"]["h_per_A"]), np.array(found["distances"]["r_A"])
    assert h.sum() * summary.WIDTH == pytest.approx(1.0)
    bond = np.linalg.norm(WATER_POSITIONS[1] - WATER_POSITIONS[0])
    near = np.abs(r - bond) < summary.WIDTH / 2 + 1e-9
    assert h[near].sum() * summary.WIDTH == pytest.approx((2 * 100 + 41 * 2 + 19) / (3 * 160))
    c = found["velocity_autocorrelation"]
    assert c["time_fs"][:3] == [0.0, STEP, 2 * STEP]
    np.testing.assert_allclose(c["c"][::10], [1.0, -1.0, 1.0], atol=0.05)


def test_of_too_little(tmp_path: Path) -> None:
    found = summary.summarize([trajectory(tmp_path / "a.h5", 3)], LIMITS)
    assert found["drift_meV_per_atom_per_ps"] is None
    assert found["velocity_autocorrelation"] is None
    nothing = summary.summarize([tmp_path / "absent.h5"], LIMITS)
    assert nothing["temperature_K_mean"] is None
    assert nothing["distances"] is None
