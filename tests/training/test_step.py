"""The training step against plain autograd and torch's own AdamW; compiled against eager."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.machine import has_compiler
from equimd.model.painn.potential import Potential
from equimd.training import step as step_module
from equimd.training.compiling import pad_batch
from equimd.training.metrics import Loss
from equimd.training.parallel import Processes
from equimd.training.step import BETA1, BETA2, EPS, TrainStep
from tests.training.toy import toy_frames

SMALL = {"num_features": 6, "num_layers": 2, "num_rbf": 5, "num_readout": 4}
CUTOFF = 5.0


def potential(**options: object) -> Potential:
    torch.manual_seed(1)
    model = Potential(ModelConfig(**{**SMALL, "elements": (1, 8), **options}))
    model.atomic_energies[[1, 8]] = torch.tensor([-13.6, -2040.0], dtype=torch.float64)
    return model.train()


def train_step(model: Potential, **options: Any) -> TrainStep:
    weights = {"energy_weight": 0.3, "forces_weight": 0.7, "grad_clip": 10.0, "ema_decay": 0.995}
    return TrainStep(model, **{**weights, **options})


def batches(dtype: torch.dtype, *, mixed: bool = False, neighbors: str = "auto") -> list[Batch]:
    frames = toy_frames(12, mixed=mixed)
    return [
        Batch.from_frames(frames.take(np.arange(k, k + 4)), CUTOFF, dtype=dtype, neighbors=neighbors) for k in (0, 4, 8)
    ]


def loss_of(
    model: Potential, batch: Batch, energy_weight: float, forces_weight: float, per_atom: bool, loss: str
) -> torch.Tensor:
    """The documented loss, through the model's own forward."""
    out = model(batch)
    error = out["energy"] - batch.energy
    if per_atom:
        error = error / batch.n_atoms
    real = batch.atomic_numbers > 0
    wrong = (out["forces"] - batch.forces)[real]
    if loss == "mse":
        return energy_weight * error.square().mean() + forces_weight * wrong.square().mean()
    lengths = (wrong.square().sum(1) + 1e-10).sqrt() - 1e-5
    return energy_weight * error.abs().mean() + forces_weight * lengths.mean()


@pytest.mark.parametrize("forces", ["conservative", "direct"])
@pytest.mark.parametrize("per_atom", [False, True])
@pytest.mark.parametrize("neighbors", ["auto", "torch"])
@pytest.mark.parametrize("loss", ["l2mae", "mse"])
def test_gradients_equal_plain_autograd(forces: str, per_atom: bool, neighbors: str, loss: Loss) -> None:
    model = potential(forces=forces, dtype="float64")
    (batch, *_) = batches(torch.float64, mixed=True, neighbors=neighbors)
    twin = copy.deepcopy(model)
    wanted_loss = loss_of(twin, batch, 0.3, 0.7, per_atom, loss)
    wanted = torch.autograd.grad(wanted_loss, list(twin.parameters()), allow_unused=True)
    step = train_step(model, energy_loss_per_atom=per_atom, loss=loss)
    weights = step.flat.vector.new_tensor([0.3, 0.7])
    gradient, statistics = step.gradients(
        step.flat.vector, weights[0], weights[1], step._inputs(batch), (batch.num_structures, batch.num_slots)
    )
    assert torch.allclose(statistics[0], wanted_loss, rtol=1e-12)
    for found, expected in zip(step.flat.views(gradient), wanted, strict=True):
        expected = torch.zeros_like(found) if expected is None else expected
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_updates_equal_torch_adamw_with_a_rate_for_each_parameter() -> None:
    model = potential(dtype="float64")
    twin = copy.deepcopy(model)
    step = train_step(model, weight_decay=0.1, grad_clip=0.0, ema_decay=0.9)
    factors = step_module.learning_rate_factors(twin)
    lr = 2e-3
    groups = [{"params": [p], "lr": lr * factors[name]} for name, p in twin.named_parameters()]
    # decay is lr times the decay for every weight alike: factors belong to the gradient's step only
    for group, name in zip(groups, factors, strict=True):
        group["weight_decay"] = 0.1 / factors[name]
    optimizer = torch.optim.AdamW(groups, betas=(BETA1, BETA2), eps=EPS)
    average = {name: p.detach().clone() for name, p in twin.named_parameters()}
    for t, batch in enumerate(batches(torch.float64), 1):
        step(batch, lr)
        optimizer.zero_grad()
        loss_of(twin, batch, 0.3, 0.7, False, "l2mae").backward()
        optimizer.step()
        decay = min(0.9, (1 + t) / (10 + t))
        for name, p in twin.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * p.detach()
    for name, p in twin.named_parameters():
        torch.testing.assert_close(model.state_dict()[name], p.detach(), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(step.ema_weights()[name], average[name], rtol=1e-8, atol=1e-10)


def test_the_gradient_is_clipped_to_its_largest_norm() -> None:
    (batch, *_) = batches(torch.float64)
    free, clipped = (train_step(potential(dtype="float64"), grad_clip=c) for c in (0.0, 1e-3))
    norm = float(free(batch, 1e-3)["grad_norm"])
    assert float(clipped(batch, 1e-3)["grad_norm"]) == norm  # reported as it was
    assert norm > 1e-3
    ratio = clipped._moment1.norm() / free._moment1.norm()
    assert float(ratio) == pytest.approx(1e-3 / (norm + 1e-6), rel=1e-9)


def test_statistics_are_sums_over_real_atoms() -> None:
    model = potential(dtype="float64")
    (batch, *_) = batches(torch.float64, mixed=True)
    out = copy.deepcopy(model).eval()(batch)
    found = train_step(model)(batch, 0.0)
    assert float(found["n_frames"]) == batch.num_structures
    assert float(found["n_components"]) == 3 * int(batch.n_atoms.sum())
    assert float(found["energy_abs"]) == pytest.approx(float((out["energy"] - batch.energy).abs().sum()), rel=1e-9)
    assert float(found["forces_sq"]) == pytest.approx(float((out["forces"] - batch.forces).square().sum()), rel=1e-9)


def test_padding_changes_neither_loss_nor_gradient() -> None:
    (batch, *_) = batches(torch.float64, mixed=True)
    padded = pad_batch(batch, batch.num_structures + 3, batch.num_slots + 2)
    assert padded.num_structures == batch.num_structures + 3
    small, large = (train_step(potential(dtype="float64")) for _ in range(2))
    a, b = small(batch, 1e-3), large(padded, 1e-3)
    assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-10)
    torch.testing.assert_close(small.flat.vector, large.flat.vector, rtol=1e-9, atol=1e-11)


def test_state_comes_back_bit_for_bit() -> None:
    first = train_step(potential())
    parts = batches(torch.float32)
    first(parts[0], 1e-3)
    second = train_step(potential())
    second.load_state_dict(first.state_dict())
    for batch in parts[1:]:
        assert torch.equal(
            torch.stack(list(first(batch, 1e-3).values())), torch.stack(list(second(batch, 1e-3).values()))
        )
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    # the module's own parameters are views of what was loaded
    assert torch.equal(second.model.last_layer.weight.view(-1), second.model.state_dict()["last_layer.weight"].view(-1))


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_the_compiled_step_agrees_with_the_eager_one_over_few_graphs() -> None:
    parts = batches(torch.float32, mixed=True)
    parts.append(parts[0].__class__.from_frames(toy_frames(3, mixed=True), CUTOFF))  # a last, smaller batch
    eager, fast = (
        train_step(potential(num_layers=1), compile=flag, batch_size=4, sizes=(2, 3)) for flag in (False, True)
    )
    for batch in parts:
        a, b = eager(batch, 1e-3), fast(batch, 1e-3)
        assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=2e-4)
    # Adam's first steps turn rounding into sign changes of tiny gradients: a few steps of the rate bound the drift
    assert (eager.flat.vector - fast.flat.vector).abs().max() < 4 * 1e-3 * float(fast._factors.max())
    assert torch.quantile((eager.flat.vector - fast.flat.vector).abs(), 0.9) < 1e-5
    assert len(fast._graphs) == 1


@dataclass
class Meeting:
    """Where threads sum their tensors; torch's tracing is not made for threads, so that one at a time runs."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=1200))
    brought: dict[int, torch.Tensor] = field(default_factory=dict)

    def wait(self) -> None:
        self.lock.release()
        self.barrier.wait()
        self.lock.acquire()


@dataclass(frozen=True)
class ThreadOfTwo(Processes):
    size: int = 2
    meeting: Meeting = field(default_factory=Meeting)

    def sum_(self, x: torch.Tensor) -> torch.Tensor:
        self.meeting.brought[self.rank] = x.clone()
        self.meeting.wait()
        x.copy_(self.meeting.brought[0] + self.meeting.brought[1])
        self.meeting.wait()
        return x


@pytest.mark.parametrize(
    "compile", [False, pytest.param(True, marks=pytest.mark.skipif(not has_compiler(), reason="no C++ compiler"))]
)
def test_uneven_parts_of_a_batch_make_the_step_of_the_whole(monkeypatch: pytest.MonkeyPatch, compile: bool) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)  # what is traced is right; compiling it takes long
    frames = toy_frames(12, mixed=not compile)  # of one size where every size is traced
    orders = [np.arange(5), np.arange(5, 8), np.array([8]), np.arange(9, 12)]
    make = {"compile": compile, "batch_size": 5, "sizes": (2, 3), "weight_decay": 0.01}
    whole = train_step(potential(dtype="float64", num_layers=1), **{**make, "compile": False})
    found: dict[int, list[dict[str, torch.Tensor]]] = {0: [], 1: []}
    meeting = Meeting()
    steps = [
        train_step(potential(dtype="float64", num_layers=1), processes=ThreadOfTwo(rank, meeting=meeting), **make)
        for rank in (0, 1)
    ]

    def run(rank: int) -> None:
        with meeting.lock:
            for index in steps[rank].processes.parts(orders):
                batch = Batch.from_frames(frames.take(index), CUTOFF, dtype=torch.float64)
                found[rank].append(steps[rank](batch, 1e-3))

    expected = [whole(Batch.from_frames(frames.take(index), CUTOFF, dtype=torch.float64), 1e-3) for index in orders]
    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in (0, 1):
        assert steps[rank].batch_size == 3
        assert bool(steps[rank]._graphs) == compile
        for a, b in zip(found[rank], expected, strict=True):
            assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-9)
        torch.testing.assert_close(steps[rank].flat.vector, whole.flat.vector, rtol=1e-9, atol=1e-11)
    assert torch.equal(steps[0].flat.vector, steps[1].flat.vector)


def test_without_a_compiler_it_runs_eager_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(step_module, "has_compiler", lambda: False)
    assert not train_step(potential(), compile=True).compile
    assert "no C++ compiler" in caplog.text
