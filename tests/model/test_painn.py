"""The parts of PaiNN: initialization, learning rates, irreps, and no weight without an effect."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from e3nn import o3

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.model.painn.coupling import Coupling
from equimd.model.painn.coupling_terms import couplings
from equimd.model.painn.network import (
    learning_rate_factors,
    scalar_linear,
    scalars,
    tensor_linear,
    tensors,
)
from equimd.model.painn.potential import Potential


def small(**settings: object) -> Potential:
    config = {"num_features": 8, "num_layers": 2, "num_rbf": 6, "num_readout": 5, "cutoff": 4.0, "dtype": "float64"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Potential(ModelConfig(**(config | settings)))


def batch_of(n: int = 7, **settings: object) -> Batch:
    rng = np.random.default_rng(0)
    frames = Frames.build(rng.choice([1, 6, 8], (2, n)), rng.normal(scale=1.4, size=(2, n, 3)), **settings)
    return Batch.from_frames(frames, 4.0, dtype=torch.float64)


def test_irreps() -> None:
    assert scalars(4) == o3.Irreps("4x0e")
    assert tensors(4, 3) == o3.Irreps("4x1o + 4x2e + 4x3o")
    assert small(lmax=2).backbone.irreps_out == o3.Irreps("8x0e + 4x1o + 4x2e")
    assert "8x0e+4x1o" in repr(small().backbone)


@pytest.mark.parametrize("bias", [False, True])
def test_scalar_products_are_those_of_e3nn(bias) -> None:
    linear = o3.Linear(scalars(5), scalars(7), biases=bias).double()
    if bias:
        torch.nn.init.normal_(linear.bias)
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(scalar_linear(linear, x), linear(x), rtol=0, atol=1e-13)


def as_e3nn(parts: list[torch.Tensor]) -> torch.Tensor:
    """For each l (N, 2l+1, F) -> (N, irreps.dim), channels first, components last."""
    return torch.cat([t.transpose(1, 2).flatten(1) for t in parts], dim=1)


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_tensor_products_are_those_of_e3nn(lmax) -> None:
    linear = o3.Linear(tensors(3, lmax), tensors(5, lmax)).double()
    x = [torch.randn(4, 2 * ell + 1, 3, dtype=torch.float64) for ell in range(1, lmax + 1)]
    torch.testing.assert_close(as_e3nn(tensor_linear(linear, x)), linear(as_e3nn(x)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("lmax", [2, 3])
def test_coupling_is_that_of_e3nn(lmax) -> None:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # e3nn makes its 3j symbols in it
    try:
        paths = [(a - 1, b - 1, c - 1, "uuu", False) for a, b, c in couplings(lmax)]
        irreps, norms = tensors(3, lmax), {"irrep_normalization": "component", "path_normalization": "none"}
        product = o3.TensorProduct(irreps, irreps, irreps, paths, **norms)
    finally:
        torch.set_default_dtype(usual)
    x, y = ([torch.randn(4, 2 * ell + 1, 3, dtype=torch.float64) for ell in range(1, lmax + 1)] for _ in range(2))
    coupling = Coupling(lmax).float().double()  # exact again after a stay in single precision
    ours = as_e3nn(coupling(torch.cat(x, 1), torch.cat(y, 1)))
    torch.testing.assert_close(ours, product(as_e3nn(x), as_e3nn(y)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("lmax", [2, 3])
def test_tangents_of_a_coupling_are_its_derivative(lmax) -> None:
    shape, coupling = (4, (lmax + 1) ** 2 - 1, 3), Coupling(lmax).double()
    x, y = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    dx, dy = (torch.randn(5, *shape, dtype=torch.float64) for _ in range(2))
    ours = torch.cat(coupling.tangents(x, y, dx, dy), -2)
    for t in range(5):
        _, expected = torch.func.jvp(lambda a, b: torch.cat(coupling(a, b), -2), (x, y), (dx[t], dy[t]))
        torch.testing.assert_close(ours[t], expected, rtol=0, atol=1e-13)


def linears(model: torch.nn.Module) -> dict[str, o3.Linear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, o3.Linear)}


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_applied_weights_start_as_xavier_and_biases_at_zero(forces) -> None:
    model = small(num_features=32, lmax=2, forces=forces)
    found = linears(model)
    assert len(found) == 2 * 8 + 1 + (3 if forces == "direct" else 0)
    for name, linear in found.items():
        assert torch.count_nonzero(linear.bias) == 0
        offset = 0
        for instruction in (i for i in linear.instructions if i.i_in >= 0):
            rows, cols = instruction.path_shape
            applied = linear.weight.detach()[offset : offset + rows * cols] * instruction.path_weight
            offset += rows * cols
            bound = math.sqrt(6.0 / (rows + cols))
            assert applied.abs().max() <= bound, name
            if rows * cols >= 100:
                assert applied.abs().max() > 0.9 * bound, name
                assert float(applied.std()) == pytest.approx(bound / math.sqrt(3), rel=0.25), name
        assert offset == linear.weight.numel()


def test_features_neither_vanish_nor_explode_at_the_start() -> None:
    model = small(num_features=64, num_layers=5, dtype="float32")
    out = model.eval()(batch_of())
    assert 1e-2 < float(out["features"].abs().mean()) < 1e2
    assert float(out["forces"].abs().max()) < 1e2


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_learning_rate_factors_give_applied_weights_a_plain_step(forces) -> None:
    model = small(forces=forces, lmax=2, charge_spin=True)
    factors = learning_rate_factors(model)
    assert set(factors) == {name for name, _ in model.named_parameters()}
    parameters, lr = dict(model.named_parameters()), 1e-3
    before = {name: p.detach().clone() for name, p in parameters.items()}
    groups = [{"params": [p], "lr": lr * factors[name]} for name, p in parameters.items()]
    for p in parameters.values():
        p.grad = torch.ones_like(p)
    torch.optim.Adam(groups).step()
    weighted = {f"{name}.weight": m for name, m in linears(model).items()}
    for name, p in parameters.items():
        path_weight = 1.0
        if name in weighted:
            (path_weight,) = {i.path_weight for i in weighted[name].instructions if i.i_in >= 0}
        step = (before[name] - p.detach()) * path_weight
        torch.testing.assert_close(step, torch.full_like(step, lr), rtol=1e-6, atol=0)


@pytest.mark.parametrize("lmax", [1, 2])
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_every_parameter_takes_part_in_training(forces, lmax) -> None:
    model = small(forces=forces, lmax=lmax, charge_spin=True).train()
    out = model(batch_of(charge=np.array([0, 1]), spin=np.array([1, 2])))
    loss = out["energy"].square().sum() + out["forces"].square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert gradient.abs().max() > 0, name


def test_forces_alone_train_everything_that_they_depend_on() -> None:
    for forces, idle in (("conservative", set()), ("direct", {"readout.weight", "readout.bias", "last_layer.weight"})):
        model = small(forces=forces).train()
        loss = model(batch_of())["forces"].square().sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        names = [name for name, _ in model.named_parameters()]
        unused = {n for n, g in zip(names, gradients, strict=True) if g is None or not g.any()}
        assert unused == idle


def test_dead_terms_are_left_out() -> None:
    """V is zero before the first message, and not read after the last update of a conservative model."""
    f = 8
    conservative, direct = small(lmax=1), small(lmax=1, forces="direct")
    for model in (conservative, direct):
        assert [m.phi.irreps_out.dim for m in model.backbone.messages] == [2 * f, 3 * f]
    assert [u.gates.irreps_out.dim for u in conservative.backbone.updates] == [3 * f, 2 * f]
    assert [u.gates.irreps_out.dim for u in direct.backbone.updates] == [3 * f, 3 * f]


def test_couplings_keep_parity_and_the_triangle() -> None:
    assert couplings(1) == []
    assert sorted(couplings(2)) == [(1, 1, 2), (1, 2, 1), (2, 1, 1), (2, 2, 2)]
    for a, b, c in couplings(3):
        assert abs(a - b) <= c <= a + b
        assert (a + b + c) % 2 == 0


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_size_of_the_default_model(lmax) -> None:
    """Counted by hand from the equations: embedding, messages, updates, readout, last layer."""
    config = ModelConfig(lmax=lmax)
    f, r, p, layers = config.num_features, config.num_rbf, config.num_readout, config.num_layers
    t = config.tensor_channels
    assert t == (128 if lmax == 1 else 64)
    message = [(f + 1) * f + (f + 1 + r + 1) * w for w in (f + t * lmax, *[f + 2 * t * lmax] * (layers - 1))]
    products = 0 if lmax == 1 else lmax  # of each l, products that become scalars, and as many that become tensors
    gates = [*[f + 2 * t * (lmax + products)] * (layers - 1), f + t * (lmax + products)]
    update = [lmax * 2 * t * t + (f + t * lmax + 1) * f + (f + 1) * w for w in gates]
    update += [*[products * 2 * t * t] * (layers - 1), products * t * t]
    update += [0 if t == f else t * (lmax + products) * f] * layers  # inner products to scalars
    expected = 119 * f + sum(message) + sum(update) + (f + 1) * p + p
    model = Potential(config)
    assert sum(q.numel() for q in model.parameters()) == expected
    if lmax == 1:
        assert expected == 555_776
    if lmax == 2:
        plain = ModelConfig(lmax=2, num_tensors=128, tensor_products=False)
        assert sum(q.numel() for q in Potential(plain).parameters()) == 881_792
    if lmax == 3:
        assert expected == 977_792
