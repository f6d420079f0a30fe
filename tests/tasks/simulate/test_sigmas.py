"""``--sigma-every``: saved frames with the sigma of each atom, whatever the screen says, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

import equimd
from equimd.errors import RunError, UncertaintyError
from equimd.md.trajectory import read
from equimd.tasks.simulate import session
from equimd.tasks.simulate.settings import SimulationSettings
from tests.md.test_simulation import assert_same_run

from .test_restart import begun, gone_on

pytestmark = pytest.mark.usefixtures("no_plot")


def test_every_second_saved_frame(
    settings: Callable[..., SimulationSettings], calibrated: Path, tmp_path: Path
) -> None:
    common = {"run": str(calibrated), "uq_threshold": "flag", "replicas": 2, "save_every": 2, "steps": 40}
    plain = begun(settings(**common), tmp_path / "plain")
    made = begun(settings(**common, sigma_every=2), tmp_path / "made")
    assert made["uncertainty"] == plain["uncertainty"], "what decided is what decides without"
    model, cleared = equimd.load(calibrated), 0
    for k in (0, 1):
        one, other = (read(tmp_path / name / f"trajectory-00{k}.h5md") for name in ("plain", "made"))
        assert np.array_equal(one.positions, other.positions)
        assert np.array_equal(one.observables["flagged"], other.observables["flagged"])
        due = other.step % 4 == 0
        np.testing.assert_array_equal(one.atoms["force_sigma"][~due], other.atoms["force_sigma"][~due])
        sigma = other.atoms["force_sigma"][due]
        expected = [model.predict(Atoms(other.numbers, x)).atom_forces_std for x in other.positions[due]]
        np.testing.assert_allclose(sigma, expected, rtol=1e-3)
        np.testing.assert_allclose(other.observables["force_sigma"][due], sigma.max(1), rtol=1e-6)
        cleared += int(np.isnan(one.atoms["force_sigma"][due]).any(1).sum())
    assert cleared, "the screen cleared some of them"


def test_a_run_that_is_gone_on_with_has_the_same(
    settings: Callable[..., SimulationSettings], calibrated: Path, tmp_path: Path
) -> None:
    common = {"run": str(calibrated), "uq_threshold": "flag", "save_every": 2, "sigma_every": 3}
    begun(settings(**common, steps=40), tmp_path / "whole")
    begun(settings(**common, steps=14), tmp_path / "grown")
    gone_on(tmp_path / "grown", steps=40)
    assert_same_run(tmp_path / "whole", tmp_path / "grown")
    text = (tmp_path / "grown" / "simulation.yaml").read_text()
    (tmp_path / "grown" / "simulation.yaml").write_text(text.replace("sigma_every: 3", "sigma_every: 2"))
    with pytest.raises(RunError, match="made with sigma_every = 3, not 2"):
        gone_on(tmp_path / "grown")


def test_there_must_be_sigmas(settings: Callable[..., SimulationSettings], calibrated: Path) -> None:
    for more in ({}, {"run": str(calibrated), "uq_threshold": "off"}):
        with pytest.raises(UncertaintyError, match="without a calibrated threshold there are no sigmas"):
            session.prepare(settings(**more, sigma_every=1))
