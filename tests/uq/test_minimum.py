"""A minimum and its vibrations: against ASE's, and the errors against draws that are relaxed one by one."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read
from ase.vibrations import Vibrations

import equimd
from equimd.calculators import LoadedModel
from equimd.errors import DataError, UncertaintyError
from equimd.model.painn.potential import Potential
from equimd.uq.draws import drawn_weights
from equimd.uq.minimum import Minimum, minimum
from equimd.uq.posterior import FeatureDistance, LastLayer, Posterior
from equimd.uq.predict import Calibrated
from equimd.uq.recalibration import Recalibration
from tests.golden.saved import SAVED

AS_IT_IS = Recalibration("scale", {0: 1.0}, {0: 0.0})
PAIRS = np.array([[0, 1], [0, 2], [1, 2]])


@pytest.fixture(scope="module")
def model() -> Potential:
    return equimd.load(SAVED / "conservative").potential.converted(torch.float64)


def at_rest(model: Potential) -> Minimum:
    return LoadedModel(model).minimum(read(SAVED / "water.start.xyz", index=0), uncertainty=False)


def test_frequencies_are_those_of_ase(model: Potential, tmp_path: Path) -> None:
    atoms = read(SAVED / "water.start.xyz", index=0)
    found = at_rest(model)
    assert found.frequencies.shape == (3,) and found.frequencies[0] > 0 and found.frequency_errors is None
    atoms.positions = found.positions
    atoms.calc = LoadedModel(model).calculator(uncertainty=False)
    assert np.abs(atoms.get_forces()).max() < 1e-4 and found.energy == pytest.approx(atoms.get_potential_energy())
    theirs = Vibrations(atoms, name=str(tmp_path / "vib"), delta=0.005)
    theirs.run()
    np.testing.assert_allclose(found.frequencies, theirs.get_frequencies().real[-3:], rtol=2e-3)
    overlap = [abs((found.modes[k] * theirs.get_mode(6 + k)).sum()) for k in range(3)]
    np.testing.assert_allclose(overlap, [np.linalg.norm(theirs.get_mode(6 + k)) for k in range(3)], rtol=1e-3)


def test_errors_are_those_of_draws_that_are_relaxed(model: Potential) -> None:
    """Bond lengths and frequencies of models with drawn weights, each at its own minimum, less the model's."""
    p = len(model.energy_weights)
    posterior = Posterior(model.energy_weights.double(), 2e-3 * torch.eye(p, dtype=torch.float64), torch.eye(p))
    layer = LastLayer(posterior, posterior, FeatureDistance(torch.zeros(p).double(), torch.eye(p).double()))
    atoms = read(SAVED / "water.start.xyz", index=0)
    rest = at_rest(model)
    atoms.positions = rest.positions
    frames = equimd.data.frames.Frames.from_ase([atoms])
    found = minimum(model, frames, atoms.get_masses(), Calibrated(layer, AS_IT_IS, AS_IT_IS), count=3)
    assert found.displacement is not None and found.shift is not None
    between = rest.positions[PAIRS[:, 0]] - rest.positions[PAIRS[:, 1]]
    unit = between / np.linalg.norm(between, axis=1)[:, None]
    for k, step in enumerate(drawn_weights(posterior, 3).T):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.last_layer.weight += step
        own = at_rest(other)
        change = own.distances(PAIRS)[0] - rest.distances(PAIRS)[0]
        told = ((found.displacement[k][PAIRS[:, 0]] - found.displacement[k][PAIRS[:, 1]]) * unit).sum(1)
        np.testing.assert_allclose(told, change, rtol=0.1, atol=0.05 * np.abs(change).max())
        shift = own.frequencies - rest.frequencies
        np.testing.assert_allclose(found.shift[k], shift, rtol=0.1, atol=0.05 * np.abs(shift).max())
    assert np.abs(found.shift).max() > 0.1
    np.testing.assert_allclose(found.distances(PAIRS)[1], _scatter(found, unit))
    np.testing.assert_allclose(found.frequency_errors, found.shift.std(0))
    twice = Recalibration("scale", {0: 4.0}, {0: 0.0})
    wide = minimum(model, frames, atoms.get_masses(), Calibrated(layer, AS_IT_IS, twice), count=3)
    assert wide.shift is not None
    np.testing.assert_allclose(wide.shift, 2 * found.shift, rtol=1e-9, err_msg="as large as the calibration says")


def _scatter(found: Minimum, unit: np.ndarray) -> np.ndarray:
    moved = found.displacement
    assert moved is not None
    return ((moved[:, PAIRS[:, 0]] - moved[:, PAIRS[:, 1]]) * unit).sum(-1).std(0)


def test_what_is_refused(model: Potential) -> None:
    from ase.constraints import FixAtoms

    atoms = read(SAVED / "water.start.xyz", index=0)
    frames = equimd.data.frames.Frames.from_ase([atoms])
    with pytest.raises(UncertaintyError, match="a model in float64"):
        minimum(model.converted(torch.float32), frames, atoms.get_masses())
    with pytest.raises(UncertaintyError, match="slope of the energy"):
        equimd.load(SAVED / "direct").minimum(atoms)
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(DataError, match="held fixed"):
        LoadedModel(model).minimum(atoms)
