"""Forces are the energy's slope, and what they sum to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch


def test_conservative_forces_match_central_differences(dtype, lmax, make_case, make_frames) -> None:
    case, frames = make_case(dtype, "conservative", lmax), make_frames(5)
    step = case.tolerances.difference_step
    moves = np.eye(15).reshape(15, 5, 3) * step
    rows = np.zeros(15, int)
    plus, minus = (
        case(replace(frames.take(rows), positions=frames.positions + sign * moves))["energy"] for sign in (1, -1)
    )
    slope = ((minus - plus) / (2 * step)).view(5, 3)
    forces = case(frames)["forces"].double()
    assert forces.abs().max() > 0.02
    case.same(slope, forces, case.tolerances.difference)


@pytest.mark.parametrize("basis", ["gaussian", "bessel", "expnorm"])
def test_single_precision_forces_agree_with_double(make_case, make_frames, basis) -> None:
    single, double = (make_case(d, radial_basis=basis, num_readout=5) for d in ("float32", "float64"))
    double.model.load_state_dict(single.model.state_dict())
    frames = make_frames(9, 4)
    a, b = single(frames), double(frames)
    single.same(a["forces"].double(), b["forces"], 1e-4)
    single.same(a["energy"], b["energy"], 1e-5)


def test_forces_do_not_depend_on_the_mode(case, make_frames) -> None:
    batch = case.batch(make_frames(6))
    with torch.no_grad():
        quiet = case.model(batch)
    try:
        trained = case.model.train()(batch)
    finally:
        case.model.eval()
    case.same(quiet["forces"], trained["forces"].detach())
    assert trained["forces"].requires_grad
    assert trained["energy"].requires_grad
    assert not any(value.requires_grad for value in quiet.values())


def net_force_and_torque(case, frames) -> tuple[torch.Tensor, torch.Tensor]:
    forces = case(frames)["forces"].double()
    positions = torch.from_numpy(frames.positions[0])
    return forces.sum(0), torch.linalg.cross(positions, forces).sum(0)


def test_conservative_net_force_and_torque_vanish(dtype, lmax, make_case, make_frames) -> None:
    case, frames = make_case(dtype, "conservative", lmax), make_frames(9)
    scale = float(case(frames)["forces"].abs().max())
    force, torque = net_force_and_torque(case, frames)
    assert force.abs().max() < case.tolerances.zero * scale * 9
    assert torque.abs().max() < case.tolerances.zero * scale * 9 * np.abs(frames.positions).max()


def test_direct_net_force_and_torque_do_not_vanish(dtype, lmax, make_case, make_frames, record_property) -> None:
    """The price of the direct head, measured: nothing in it conserves momentum or angular momentum."""
    case, frames = make_case(dtype, "direct", lmax), make_frames(9)
    scale = float(case(frames)["forces"].abs().max())
    force, torque = net_force_and_torque(case, frames)
    record_property("net_force_over_largest_force", float(force.norm()) / scale)
    record_property("net_torque_over_largest_force_A", float(torque.norm()) / scale)
    assert force.norm() > 0.05 * scale
    assert torque.norm() > 0.05 * scale


def test_direct_forces_are_not_the_slope(make_case, make_frames) -> None:
    """A round trip does work on the atoms: the curl of the direct field is not zero, the conservative one's is."""
    frames = make_frames(4)
    for forces, closed in (("conservative", True), ("direct", False)):
        case = make_case("float64", forces)
        batch = case.batch(frames)

        def field(x: torch.Tensor, case=case, batch=batch) -> torch.Tensor:
            from equimd.model.painn.potential import batch_arguments

            out = case.model.network(x, **batch_arguments(batch))
            if out.direct_forces is not None:
                return out.direct_forces
            return -torch.autograd.grad(out.energy.sum(), x, create_graph=True)[0]

        jacobian = torch.autograd.functional.jacobian(field, batch.positions).reshape(12, 12)
        curl = (jacobian - jacobian.T).abs().max() / jacobian.abs().max()
        assert bool(curl < 1e-10) is closed


def test_energy_only_models_say_that_they_have_no_forces(make_case, make_frames) -> None:
    out = make_case(energy_only=True)(make_frames(5))
    assert torch.isfinite(out["energy"]).all()
    assert torch.isnan(out["forces"]).all()
