"""The force function of a trained potential: the model's own answer, replica by replica, wherever the molecule is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.errors import ModelError
from equimd.forces.forcefield import ForceField, block_size
from equimd.md.integrators import VelocityVerlet
from equimd.md.simulation import Simulation
from equimd.md.state import maxwell_boltzmann
from equimd.model.painn.potential import Potential
from tests.potentials import METHANOL, METHANOL_POSITIONS

CELL = np.array([[7.0, 0.0, 0.0], [1.0, 7.5, 0.0], [0.0, 0.5, 8.0]])


def potential(dtype: str = "float64", forces: str = "conservative", **more: object) -> Potential:
    config = {"num_features": 8, "num_layers": 2, "num_rbf": 6, "num_readout": 5, "cutoff": 3.0, "elements": (1, 6, 8)}
    config["lmax"] = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Potential(ModelConfig(dtype=dtype, forces=forces, **{**config, **more}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, dtype=torch.float64).to(parameter.dtype)
            model.atomic_energies[[1, 6, 8]] = torch.tensor([-13.6, -1030.0, -2041.0]).double()
    return model.eval()


def replicas(count: int, seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(0.0, 0.1, (count, 6, 3))
    return torch.tensor(METHANOL_POSITIONS + noise)


def reference(model: Potential, positions: torch.Tensor, **more: object) -> dict[str, torch.Tensor]:
    frames = Frames.build(METHANOL, positions.numpy(), **more)
    batch = Batch.from_frames(frames, model.config.cutoff, dtype=model.dtype)
    out = model(batch)
    return {**out, "forces": out["forces"].reshape(positions.shape)}


@pytest.mark.parametrize("forces", ["conservative", "direct"])
@pytest.mark.parametrize("block", [1, 3, 8])
def test_equals_the_model_in_blocks_of_any_size(forces: str, block: int) -> None:
    model = potential(forces=forces)
    field = ForceField(model, System.build(METHANOL), features=True, block=block)
    x = replicas(7)
    expected = reference(model, x)
    with torch.no_grad():
        energy, force, extras = field(x)
    torch.testing.assert_close(energy, expected["energy"], rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(force, expected["forces"], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(extras["features"], expected["features"], rtol=1e-9, atol=1e-11)
    assert energy.dtype == force.dtype == torch.float64


def test_forces_are_minus_the_gradient() -> None:
    field = ForceField(potential(), System.build(METHANOL))
    x, step = replicas(1), 1e-4
    _, force, _ = field(x)
    for atom, axis in ((0, 0), (2, 1), (5, 2)):
        d = torch.zeros_like(x)
        d[0, atom, axis] = step
        slope = (field(x + d)[0] - field(x - d)[0]) / (2 * step)
        assert float(slope[0]) == pytest.approx(-float(force[0, atom, axis]), abs=1e-6)


def test_single_precision_does_not_depend_on_where_the_molecule_is() -> None:
    """Positions are centred in float64 before they are rounded; energies are summed with references in float64."""
    model = potential("float32")
    field = ForceField(model, System.build(METHANOL))
    x = replicas(3)
    energy, force, _ = field(x)
    far_energy, far_force, _ = field(x + torch.tensor([5000.0, -3000.0, 100.0]))
    assert energy.dtype == force.dtype == torch.float64
    assert float((far_energy - energy).abs().max()) < 1e-5
    assert float((far_force - force).abs().max()) < 1e-5
    double = potential("float64")
    double.load_state_dict(model.state_dict())
    exact, _, _ = ForceField(double, System.build(METHANOL))(x)
    assert float((energy - exact).abs().max()) < 1e-5


def test_one_broken_replica_does_not_disturb_the_others() -> None:
    for system in (System.build(METHANOL), System.build(METHANOL, cell=CELL, pbc=[True] * 3)):
        field = ForceField(potential(), system)
        x = replicas(3)
        expected = field(x)
        broken = x.clone()
        broken[1, 2, 0] = torch.nan
        energy, force, _ = field(broken)
        assert torch.isnan(energy).tolist() == [False, True, False]
        torch.testing.assert_close(force[[0, 2]], expected[1][[0, 2]], rtol=1e-9, atol=1e-11)
    broken[:] = torch.nan
    assert bool(torch.isnan(field(broken)[1]).all())


@pytest.mark.parametrize("periodic", [False, True])
def test_neighbour_list_with_a_skin(periodic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Along a walk: the list is kept while it is valid, and the answer is always that of a fresh one."""
    monkeypatch.setattr("equimd.forces.forcefield.DENSE_MAX_ATOMS", 0)
    box = {"cell": CELL, "pbc": [True] * 3} if periodic else {}
    frame_box = {"cell": CELL[None], "pbc": np.ones((1, 3), bool)} if periodic else {}
    model = potential()
    field = ForceField(model, System.build(METHANOL, **box))
    x, lists = replicas(1), []
    for step in range(12):
        x = x + 0.1 * torch.tensor(np.random.default_rng(step).normal(size=(1, 6, 3)))
        energy, force, _ = field(x)
        if not lists or field._list is not lists[-1]:
            lists.append(field._list)
        expected = reference(model, x, **frame_box)
        torch.testing.assert_close(energy, expected["energy"], rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(force, expected["forces"], rtol=1e-9, atol=1e-10)
    assert 1 < len(lists) < 12
    if periodic:  # positions are never wrapped: an atom that has left the cell is where its image is
        x[0, 2] += torch.tensor(2.0 * CELL[0] - 3.0 * CELL[2])
        torch.testing.assert_close(field(x)[0], energy, rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(field(x)[1], force, rtol=1e-9, atol=1e-10)


def test_a_restart_makes_the_same_list_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equimd.forces.forcefield.DENSE_MAX_ATOMS", 0)
    model, system = potential("float32"), System.build(METHANOL)
    x = replicas(2)
    field, resumed = ForceField(model, system), ForceField(model, system)
    field(x)
    resumed.load(field.arrays())
    moved = x + 0.1
    moved[:, 3] += 0.1  # within half of the skin
    for a, b in zip(field(moved)[:2], resumed(moved)[:2], strict=True):
        assert torch.equal(a, b)


def test_a_run_over_a_list_goes_on_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A molecule that could be compiled by now, of a run that was not: the same bits as before."""
    monkeypatch.setattr("equimd.forces.forcefield.DENSE_MAX_ATOMS", 0)
    model, system = potential("float32"), System.build(METHANOL)
    x = replicas(2)
    field, resumed = ForceField(model, system, compile="off"), ForceField(model, system, compile="on")
    expected = field(x)
    arrays = field.arrays()
    assert field.compiled is False and not field.dense
    for state in (arrays, {"list_positions": arrays["list_positions"]}):
        resumed.load(state)
        assert resumed.compiled is False
        for a, b in zip(expected[:2], resumed(x)[:2], strict=True):
            assert torch.equal(a, b)


def test_dynamics_on_a_potential_conserves_energy() -> None:
    """Double precision: the error of the total energy is that of the integrator, falling as dt^2."""
    system = System.build(METHANOL)
    field = ForceField(potential(), system)
    x = torch.tensor(METHANOL_POSITIONS)[None]
    v = maxwell_boltzmann(system, x, 300.0, seed=0, replicas=(0,), bath=False)

    def error(dt: float) -> float:
        simulation = Simulation.start(system, VelocityVerlet(dt), field, x, v, dof=12)
        values = [simulation.integrator.conserved(system, simulation.state)]
        simulation.run(round(16 / dt), observer=lambda s: values.append(s.integrator.conserved(s.system, s.state)))
        return float((torch.stack(values) - values[0]).square().mean().sqrt())

    assert error(0.4) / error(0.2) == pytest.approx(4.0, rel=0.25)


def test_what_the_model_cannot_answer_is_refused() -> None:
    with pytest.raises(ModelError, match="never saw: N"):
        ForceField(potential(), System.build([7, 1, 1]))
    with pytest.raises(ModelError, match="energies alone"):
        ForceField(potential(energy_only=True), System.build(METHANOL))


def test_blocks_fit_the_cache() -> None:
    assert block_size(9, 3 * 128, 4) == 8
    assert block_size(21, 3 * 128, 4) == 1
    assert block_size(200, 3 * 128, 8) == 1
