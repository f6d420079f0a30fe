"""Total energies keep their digits, electronic states matter, and strangers are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from equimd.data.frames import Frames
from equimd.errors import ModelError
from equimd.model.painn.potential import MAX_CHARGE, MAX_SPIN

DIFFERENCE = 1e-4  # eV, below the spacing of float32 numbers at 4000 eV (2.4e-4)


def test_total_energies_keep_their_digits_in_single_precision(make_case, make_frames) -> None:
    single, double = make_case("float32", num_readout=4), make_case("float64", num_readout=4)
    try:
        single.model.atomic_energies[list(single.model.config.elements)] = torch.tensor(
            [-500.1, -600.3, -700.7, -800.9], dtype=torch.float64
        )
        double.model.load_state_dict(single.model.state_dict())
        frames = make_frames(6)
        forces = double(frames)["forces"].double().numpy()
        downhill = frames.positions + forces[None] / np.square(forces).sum() * DIFFERENCE
        pair = Frames.concatenate([frames, replace(frames, positions=downhill)])
        energies = single(pair)["energy"]
        assert energies.dtype == torch.float64
        assert energies[0] < -3000
        assert np.spacing(np.float32(4000.0)) > 2 * DIFFERENCE
        drop, exact = energies[0] - energies[1], np.diff(double(pair)["energy"].numpy())[0] * -1
        assert exact == pytest.approx(DIFFERENCE, rel=0.05)
        assert float(drop) == pytest.approx(exact, abs=0.05 * DIFFERENCE)
    finally:
        for case in (single, double):
            case.model.atomic_energies.zero_()


def test_reference_energies_are_sums_over_atoms(conservative, make_frames) -> None:
    frames = make_frames(4, 7)
    model = conservative.model
    before = conservative(frames)["energy"]
    try:
        model.atomic_energies.copy_(torch.arange(119, dtype=torch.float64) * -10.000001)
        after = conservative(frames)["energy"]
    finally:
        model.atomic_energies.zero_()
    expected = -10.000001 * frames.numbers.astype(float).sum(1)
    np.testing.assert_allclose((after - before).numpy(), expected, rtol=1e-12)


def test_energy_is_linear_in_the_last_layer(case, make_frames) -> None:
    out = case(make_frames(5, 8))
    weight = case.model.last_layer.weight.detach().squeeze(0)
    assert type(case.model.last_layer) is torch.nn.Linear
    assert case.model.last_layer.bias is None
    case.same(out["energy"], (out["features"][:, : len(weight)] @ weight).double())


def test_scale_multiplies_energies_forces_and_features(case, make_frames) -> None:
    frames = make_frames(5)
    before = case(frames)
    try:
        case.model.scale.fill_(3.0)
        after = case(frames)
    finally:
        case.model.scale.fill_(1.0)
    for key in ("energy", "forces", "features"):
        case.same(after[key], 3.0 * before[key])


def test_charge_and_spin_change_the_energy(dtype, make_case, make_frames) -> None:
    for forces in ("conservative", "direct"):
        case = make_case(dtype, forces, charge_spin=True)
        frames = make_frames(6).take([0, 0, 0, 0])
        states = replace(frames, charge=np.array([0, 1, -1, 0]), spin=np.array([1, 2, 2, 3]))
        for layout in ("dense", "torch"):
            out = case(states, layout)
            gaps = out["energy"][:, None] - out["energy"][None]
            assert gaps[~torch.eye(4, dtype=bool)].abs().min() > 1e-3
            for k in range(4):  # each structure has its own state, whatever its company
                case.same(case(states.take([k]), layout)["energy"], out["energy"][[k]])
            by_frame = out["forces"].view(4, 6, 3)
            assert (by_frame[0] - by_frame[1]).abs().max() > 1e-3


def test_a_model_without_state_ignores_it(case, make_frames) -> None:
    frames = make_frames(5)
    charged = replace(frames, charge=np.array([1]), spin=np.array([2]))
    assert torch.equal(case(charged)["energy"], case(frames)["energy"])


@pytest.mark.parametrize(
    ("charge", "spin"), [(MAX_CHARGE + 1, 1), (-MAX_CHARGE - 1, 1), (0, MAX_SPIN + 1), (0, -1), (100, 100)]
)
def test_states_out_of_range_are_refused(make_case, make_frames, charge, spin) -> None:
    case = make_case(charge_spin=True)
    frames = replace(make_frames(4), charge=np.array([charge]), spin=np.array([spin]))
    with pytest.raises(ModelError, match=f"charge.*{MAX_CHARGE}.*multiplicit.*{MAX_SPIN}"):
        case(frames)


@pytest.mark.parametrize(("charge", "spin"), [(MAX_CHARGE, 0), (-MAX_CHARGE, MAX_SPIN), (0, 1)])
def test_states_at_the_end_of_the_range_are_not(make_case, make_frames, charge, spin) -> None:
    frames = replace(make_frames(4), charge=np.array([charge]), spin=np.array([spin]))
    assert torch.isfinite(make_case(charge_spin=True)(frames)["energy"]).all()


@pytest.mark.parametrize("neighbors", ["dense", "torch"])
def test_unknown_elements_are_named(case, make_frames, neighbors) -> None:
    frames = make_frames(5, 3)
    numbers = frames.numbers.copy()
    numbers[0, 2], numbers[1, 0] = 35, 14
    with pytest.raises(ModelError) as caught:
        case(replace(frames, numbers=numbers), neighbors)
    assert "Si, Br" in caught.value.what
    assert "H, C, N, O" in caught.value.hint
