"""A model that is not PaiNN all the way: posterior, recalibration, judge, molecular dynamics and the ASE calculator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from equimd.calculators import LoadedModel
from equimd.data.batch import Batch
from equimd.data.dataset import ArrayDataset
from equimd.data.system import System
from equimd.errors import GuardError, ModelError, UncertaintyError
from equimd.forces.forcefield import ForceField
from equimd.guard.calibration import Calibration
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.md.integrators import VelocityVerlet
from equimd.md.simulation import Simulation
from equimd.md.state import maxwell_boltzmann
from equimd.uq.laplace import fit_last_layers
from equimd.uq.predict import predict
from tests.guard.calibrated import calibration
from tests.pairwise import PairwiseModel
from tests.training.toy import OFFSET, WATER, toy_frames

NUMBERS = np.array([8, 1, 1])


@pytest.fixture(scope="module")
def model() -> PairwiseModel:
    """Fitted to water by least squares: its rows are all that takes."""
    found = PairwiseModel((1, 8), cutoff=3.0, num_radial=10)
    found.atomic_energies[8] = OFFSET[3]
    exact, frames = found.converted(torch.float64), toy_frames(40)
    batch = Batch.from_frames(frames, found.cutoff, dtype=torch.float64)
    rows = exact.rows(batch)
    energy = torch.from_numpy(frames.energy) - exact.reference_energy(batch)
    forces = torch.from_numpy(frames.forces).flatten()
    ridge = 0.03 * torch.eye(found.num_pooled, dtype=torch.float64)
    design = torch.cat([rows.energy, rows.forces.flatten(0, 1), ridge])
    target = torch.cat([energy, forces, torch.zeros(len(ridge), dtype=torch.float64)])
    with torch.no_grad():
        found.last_layer.weight.copy_(torch.linalg.lstsq(design, target[:, None]).solution.T)
    return found


@pytest.fixture(scope="module")
def found(model: PairwiseModel) -> Calibration:
    return calibration(model, toy_frames(40), toy_frames(60, seed=1), compositions=("H2O",))


@pytest.fixture
def judge(model: PairwiseModel, found: Calibration) -> Judge:
    system = System.build(NUMBERS)
    limits = Limits.from_reference(system, torch.tensor(WATER))
    return Judge.of(model, system, found.choose("halt"), limits=limits)


def test_the_posterior_is_around_its_weights_and_calibrated(model: PairwiseModel, found: Calibration) -> None:
    layer, fitted = fit_last_layers(model, ArrayDataset(toy_frames(40)))
    torch.testing.assert_close(layer.energy.mean, model.energy_weights.double())
    assert layer.energy.width == model.num_pooled == len(fitted["energy"].mean)
    new = predict(model, found.calibrated.layer, ArrayDataset(toy_frames(60, seed=2)))
    errors = np.linalg.norm(new.force_error, axis=1)
    assert errors.mean() < 0.5  # eV/A, of forces of several
    model_part, noise = found.calibrated.forces.covariance(new.force_covariance, new.distance[new.frame], new.numbers)
    covariance = model_part + noise[:, None, None] * np.eye(3)
    z = np.einsum("nx,nx->n", new.force_error, np.linalg.solve(covariance, new.force_error[..., None])[..., 0]) / 3
    assert 0.5 < z.mean() < 2.0


def test_dynamics_is_eager_conserves_energy_and_halts(model: PairwiseModel, judge: Judge) -> None:
    field = ForceField(model, judge.system, judge=judge, compile="on")
    x = torch.tensor(WATER).expand(3, -1, -1).clone()
    v = maxwell_boltzmann(judge.system, x, 300.0, seed=3, replicas=range(3), bath=False)
    v[2, 1] *= 40.0  # this one loses a hydrogen atom
    simulation = Simulation.start(judge.system, VelocityVerlet(0.25), field, x, v, dof=3, judge=judge)
    assert field.compiled is False
    before = simulation.integrator.conserved(judge.system, simulation.state)
    simulation.run(60)
    after = simulation.integrator.conserved(judge.system, simulation.state)
    assert simulation.state.active == (True, True, False)
    assert simulation.state.step == 60
    torch.testing.assert_close(after[:2], before[:2], rtol=0, atol=2e-3)


def test_the_judge_clears_what_is_like_training_and_no_more(model: PairwiseModel, judge: Judge) -> None:
    near, far = torch.tensor(WATER), torch.tensor(WATER) * 1.35
    field = ForceField(model, judge.system, judge=judge)
    x = torch.stack([near, far])
    energy, forces, extras = field(x)
    decision = judge(x, energy, forces, extras)
    assert [(e.row, e.action, e.code) for e in decision.events] == [(1, "halt", "force sigma")]
    with pytest.raises(ModelError, match="never saw: C"):
        ForceField(model, System.build(np.array([6, 8])))


def test_the_calculator_knows_its_errors(model: PairwiseModel, found: Calibration) -> None:
    loaded = LoadedModel(model)
    with pytest.raises(UncertaintyError, match="a model without a run"):
        _ = loaded.calibration
    loaded.calibration = found
    water = Atoms(NUMBERS, WATER, calculator=loaded.calculator(on_exceed="halt", threshold="halt"))
    expected = loaded.predict(water, uncertainty=False)
    assert water.get_potential_energy() == pytest.approx(expected.energy)
    np.testing.assert_allclose(water.get_forces(), expected.forces, atol=1e-5)
    sigma = water.calc.get_property("atom_forces_std", water)
    assert sigma.shape == (3,) and (sigma > 0).all()
    assert not water.calc.uncertainty(water).exceeded
    water.positions *= 1.35
    with pytest.raises(GuardError, match="force sigma"):
        water.get_forces()
