"""A model of torch-sim: the values and the dynamics of ASE in batches, from which single systems are retired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms, units

import equimd
from equimd.errors import UncertaintyError
from tests.training.toy import WATER

from .conftest import Halted, moving

ts = pytest.importorskip("torch_sim", reason="torch-sim is not installed (pip install torch-sim-atomistic)")
from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from equimd.calculators import LoadedModel  # noqa: E402
from equimd.calculators.torch_sim import TorchSimModel, run_guarded  # noqa: E402
from tests.forces.test_forcefield import potential  # noqa: E402

CPU, DOUBLE = torch.device("cpu"), torch.float64


def begun(model: TorchSimModel, atoms: list[Atoms]) -> tuple[Any, Any]:
    """State and update of velocity Verlet with steps of 0.5 fs, from the velocities of ``atoms``."""
    init, update = ts.integrators.nve(model=model, dt=torch.tensor(0.5 * units.fs), kT=torch.tensor(0.025))
    state = init(ts.io.atoms_to_state(atoms, CPU, DOUBLE))
    state.momenta = torch.tensor(np.concatenate([a.get_momenta() for a in atoms]))
    return state, update


def test_values_are_those_of_ase_in_any_order(run: Path, halted: Halted) -> None:
    model = equimd.load(run)
    batch = [Atoms([8, 1, 1], x) for x in (*halted.frames[:3], halted.error.structure.positions)]
    batch.insert(1, Atoms([1, 8, 1], WATER[[1, 0, 2]]))
    state = ts.io.atoms_to_state(batch, CPU, DOUBLE)
    found = TorchSimModel(model)(state)
    rule = model.calibration.decision("halt")
    rows = torch.split(found["forces"], 3)
    for k, atoms in enumerate(batch):
        atoms.calc = model.calculator()
        assert float(found["energy"][k]) == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
        np.testing.assert_allclose(rows[k], atoms.get_forces(), atol=1e-5)
        assert float(found["force_sigma"][k]) == pytest.approx(atoms.calc.uncertainty(atoms, rule).score, rel=1e-3)
    assert float(found["force_sigma"][-1]) > rule[1] >= float(found["force_sigma"][0])


def test_torch_sims_own_check() -> None:
    model = LoadedModel(potential("float64", elements=(14, 26)))
    validate_model_outputs(TorchSimModel(model, threshold="off"), CPU, DOUBLE)
    with pytest.raises(UncertaintyError):
        TorchSimModel(model)


@pytest.mark.parametrize("action", ["halt", "flag"])
def test_one_system_is_retired_and_the_others_go_on(run: Path, halted: Halted, action: Any) -> None:
    batch = [moving(0.001), moving(), moving(0.002)]
    model = TorchSimModel(equimd.load(run), on_exceed=action)
    done = run_guarded(model, *begun(model, batch), steps=halted.step + (5 if action == "halt" else 0))
    (suspect,) = done.suspects
    assert (suspect.replica, suspect.start, suspect.action) == (1, halted.step, action)
    assert suspect.code == "force sigma" and suspect.score > suspect.threshold == halted.error.threshold
    assert f"above {suspect.threshold:.4g} eV/A" in suspect.reason and suspect.atoms
    if action == "flag":
        assert done.systems == [0, 1, 2] and not done.last_accepted
        return
    assert suspect.step == halted.step and suspect.score == pytest.approx(halted.error.score, rel=1e-3)
    np.testing.assert_allclose(suspect.positions, halted.error.structure.positions, atol=1e-5)
    np.testing.assert_allclose(done.last_accepted[1], halted.frames[-1], atol=1e-5)
    assert done.systems == [0, 2] and done.state.n_systems == 2
    # those that go on are not disturbed
    alone = run_guarded(model, *begun(model, [batch[0], batch[2]]), steps=halted.step + 5)
    torch.testing.assert_close(done.state.positions, alone.state.positions, atol=1e-9, rtol=0)


def test_the_last_one_ends_the_run(run: Path, halted: Halted) -> None:
    """By the physical checks too, each system by its own reference."""
    model = TorchSimModel(equimd.load(run))
    assert run_guarded(model, *begun(model, [moving()]), steps=200).state is None
    unwatched = TorchSimModel(equimd.load(run), threshold="off")
    done = run_guarded(unwatched, *begun(unwatched, [moving(2.0), moving(2.0)]), steps=200)
    assert done.state is None and done.systems == [] and {s.code for s in done.suspects} <= {"apart", "fused"}
    assert [s.replica for s in done.suspects] == [0, 1] and "force_sigma" not in unwatched(begun(model, [moving()])[0])


def test_frames_are_flagged_on_the_way_to_a_halt(run: Path) -> None:
    told = []
    for threshold in ("auto", "halt"):
        model = TorchSimModel(equimd.load(run), threshold=threshold)
        told.append(run_guarded(model, *begun(model, [moving(0.02)]), steps=200).suspects)
    (flag, halt), (alone,) = told
    assert (flag.action, halt.action, alone.action) == ("flag", "halt", "halt")
    assert (halt.step, halt.score, halt.threshold) == (alone.step, alone.score, alone.threshold)
    assert flag.start < halt.step and flag.threshold < halt.threshold
