"""The running path equals the e3nn spelling: values, forces, and what training differentiates, to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.model.painn.potential import Potential
from equimd.model.painn.reference import ReferencePotential

ROUNDING = 1e-10  # relative to the largest value of each tensor, float64
ELEMENTS = (1, 6, 7, 8, 17)

CASES = [
    # features, lmax, layers, radial functions, basis, readout, forces, charge and spin, without tensor products if so
    (1, 1, 1, 1, "gaussian", 1, "conservative", False),
    (2, 1, 3, 5, "bessel", 3, "conservative", True),
    (3, 2, 2, 4, "gaussian", 5, "conservative", False),
    (5, 3, 2, 6, "bessel", 2, "conservative", False),
    (8, 2, 1, 20, "bessel", 7, "conservative", True),
    (13, 1, 2, 3, "expnorm", 4, "conservative", False),
    (17, 3, 3, 8, "gaussian", 9, "conservative", False),
    (1, 3, 1, 2, "bessel", 1, "direct", False),
    (4, 1, 1, 7, "gaussian", 6, "direct", True),
    (7, 2, 3, 5, "bessel", 3, "direct", False),
    (11, 3, 2, 4, "gaussian", 8, "direct", False),
    (16, 1, 3, 20, "expnorm", 5, "direct", False),
    (6, 2, 2, 4, "bessel", 4, "conservative", False, False),
    (5, 3, 2, 3, "gaussian", 3, "direct", False, False),
]
AS_MANY = (3, 6, 7, 17)  # features of cases with as many tensors; the others have half as many where lmax is above 1


def build(case: tuple) -> Potential:
    """A potential of the case with every weight (biases included) random, and a scale and references to carry."""
    f, lmax, layers, num_rbf, basis, readout, forces, state, *products = case
    config = ModelConfig(
        num_features=f,
        num_tensors=f if f in AS_MANY else None,
        lmax=lmax,
        num_layers=layers,
        num_rbf=num_rbf,
        radial_basis=basis,
        num_readout=readout,
        forces=forces,
        charge_spin=state,
        tensor_products=all(products),
        cutoff=4.0,
        dtype="float64",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(f)
        model = Potential(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
            model.scale.fill_(1.7)
            model.atomic_energies.copy_(-10.0 * torch.arange(119))
    return model


def molecules(seed: int, *, cell: bool = False) -> Frames:
    """Molecules of random sizes, elements and states; with ``cell`` in triclinic cells shorter than the cutoff."""
    rng = np.random.default_rng(seed)
    blocks = []
    for n in rng.integers(1, 9, size=3):
        box = (np.eye(3) * rng.uniform(3.2, 4.5, 3) + rng.normal(scale=0.3, size=(3, 3)))[None] if cell else None
        blocks.append(
            Frames.build(
                rng.choice(ELEMENTS, (1, n)),
                rng.normal(scale=1.5, size=(1, n, 3)),
                cell=box,
                pbc=np.ones((1, 3)) if cell else None,
                charge=rng.integers(-2, 3, 1),
                spin=rng.integers(0, 4, 1),
            )
        )
    return Frames.concatenate(blocks)


def assert_same(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    scale = float(b.abs().max()) if b.numel() else 0.0
    torch.testing.assert_close(a, b, rtol=0, atol=ROUNDING * max(scale, 1e-6), msg=lambda text: f"{what}: {text}")


def loss_gradients(model: Potential, output: dict[str, torch.Tensor]) -> list[torch.Tensor | None]:
    """Of a loss on energies, features and forces (so of second derivatives), with respect to every parameter."""
    weights = torch.linspace(-1, 1, output["forces"].numel(), dtype=torch.float64).view(-1, 3)
    loss = (output["forces"] - weights).square().sum() + output["energy"].sum() + output["features"].sum()
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_running_path_equals_the_reference(case) -> None:
    model = build(case).train()
    reference = ReferencePotential(model)
    for layout, periodic in (("dense", False), ("torch", False), ("vesin", True)):
        frames = molecules(seed=sum(case[:4]), cell=periodic)
        batch = Batch.from_frames(frames, model.config.cutoff, dtype=torch.float64, neighbors=layout)
        compare(model, reference, batch)


def compare(model: Potential, reference: ReferencePotential, batch: Batch) -> None:
    """Values, and the gradients of a loss on them with respect to every parameter."""
    ours, theirs = model(batch), reference(batch, create_graph=True)
    assert theirs["forces"].abs().max() > 1e-6
    for key in ("energy", "features", "forces"):
        assert_same(ours[key].detach(), theirs[key].detach(), key)
    gradients = zip(model.named_parameters(), loss_gradients(model, ours), loss_gradients(model, theirs), strict=True)
    for (name, _), a, b in gradients:
        assert (a is None) == (b is None), name
        if a is not None:
            assert_same(a, b, name)


def test_reference_follows_the_weights_of_its_potential() -> None:
    model = build(CASES[2])
    reference = ReferencePotential(model)
    batch = Batch.from_frames(molecules(1), model.config.cutoff, dtype=torch.float64)
    before = reference(batch)["energy"].detach()
    with torch.no_grad():
        model.backbone.messages[0].filter.weight *= 1.1
    after = reference(batch)["energy"].detach()
    assert (after - before).abs().max() > 1e-4
    assert_same(model.eval()(batch)["energy"], after, "energy")


def test_single_precision_agrees_as_far_as_it_can() -> None:
    model = Potential(ModelConfig(num_features=8, num_layers=2, num_rbf=8, num_readout=4, cutoff=4.0)).eval()
    batch = Batch.from_frames(molecules(3), 4.0)
    ours, theirs = model(batch), ReferencePotential(model)(batch)
    assert ours["forces"].dtype == theirs["forces"].dtype == torch.float32
    for key in ("energy", "features", "forces"):
        torch.testing.assert_close(ours[key], theirs[key].detach(), rtol=1e-4, atol=1e-5)
