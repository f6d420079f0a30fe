"""Tiny untrained potentials, labelled random structures of 2 to 9 atoms, and Bayesian linear regression spelled out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.model.painn.potential import Potential, batch_arguments

CUTOFF = 3.5
ELEMENTS = (1, 6, 8)
SIZES = (2, 9, 5, 3, 7, 4, 8, 6)


@cache
def build_model(forces: str, dtype: str = "float64") -> Potential:
    """A potential with random weights, biases included, and a force scale that is not 1."""
    config = ModelConfig(
        forces=forces,
        dtype=dtype,
        elements=ELEMENTS,
        num_features=8,
        num_layers=2,
        num_rbf=8,
        num_readout=10,
        cutoff=CUTOFF,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Potential(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, dtype=torch.float64).to(parameter.dtype)
            model.scale.fill_(1.7)
            model.atomic_energies[list(ELEMENTS)] = torch.tensor([-13.6, -1000.0, -2000.0], dtype=torch.float64)
    return model.eval()


def random_frames(sizes: tuple[int, ...], seed: int = 0, labels: bool = True) -> Frames:
    """Random structures, atoms 0.9 Angstrom or more apart; labels near nothing in particular."""
    rng = np.random.default_rng(seed)
    blocks = []
    for n in sizes:
        width, points = 0.5 * (12.0 * n) ** (1 / 3), []
        while len(points) < n:
            point = rng.uniform(-width, width, 3)
            if all(np.linalg.norm(point - other) > 0.9 for other in points):
                points.append(point)
        numbers = rng.choice(ELEMENTS, (1, n))
        energy = rng.normal(size=1) + np.sum(build_model("conservative").atomic_energies.numpy()[numbers])
        forces = rng.normal(size=(1, n, 3))
        blocks.append(Frames.build(numbers, np.array([points]), *([energy, forces] if labels else [])))
    return Frames.concatenate(blocks)


@dataclass(frozen=True)
class Regression:
    """Design matrices and targets of labelled frames, row by row, for closed-form answers in NumPy."""

    energy: np.ndarray
    force: np.ndarray
    energy_target: np.ndarray
    force_target: np.ndarray

    @classmethod
    def of(cls, model: Potential, frames: Frames) -> Regression:
        """One structure and one feature at a time, with an edge list, in plain reverse mode."""
        energy, force = [], []
        for k in range(len(frames)):
            batch = Batch.from_frames(frames.take([k]), CUTOFF, dtype=torch.float64, neighbors="vesin")
            x = batch.positions.requires_grad_(True)
            out = model.network(x, **batch_arguments(batch))
            energy.append(out.features[0].detach().numpy())
            if out.vectors is not None:
                force.append(out.vectors.detach().numpy().reshape(-1, out.vectors.shape[-1]))
            else:
                columns = [torch.autograd.grad(f, x, retain_graph=True)[0].flatten() for f in out.features[0]]
                force.append(-torch.stack(columns, 1).numpy())
        reference = model.atomic_energies.numpy()[frames.numbers.astype(int)].sum(1)
        real = frames.numbers > 0
        return cls(np.array(energy), np.concatenate(force), frames.energy - reference, frames.forces[real].ravel())

    def stacked(self, targets: str, sigma: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, targets and noise of each row."""
        parts = []
        if targets != "forces":
            parts.append((self.energy, self.energy_target, np.full(len(self.energy), sigma[0])))
        if targets != "energy":
            parts.append((self.force, self.force_target, np.full(len(self.force), sigma[1])))
        x, y, s = (np.concatenate(column) for column in zip(*parts, strict=True))
        return x, y, s


@pytest.fixture
def conservative() -> Potential:
    return build_model("conservative")


@pytest.fixture(params=["conservative", "direct"])
def model(request: pytest.FixtureRequest) -> Potential:
    return build_model(request.param)


@pytest.fixture
def frames() -> Frames:
    """Eight labelled structures of 2 to 9 atoms, not in order of size."""
    return random_frames(SIZES)


@pytest.fixture
def dataset(frames: Frames) -> ArrayDataset:
    return ArrayDataset(frames)


@pytest.fixture
def regression(frames: Frames) -> Callable[[Potential], Regression]:
    return lambda model: Regression.of(model, frames)


@pytest.fixture
def make_frames() -> Callable[..., Frames]:
    return random_frames


@pytest.fixture
def make_model() -> Callable[..., Potential]:
    return build_model


@pytest.fixture
def to_batch() -> Callable[..., Batch]:
    """A float64 batch of frames."""

    def make(frames: Frames, neighbors: str = "auto", dtype: torch.dtype = torch.float64) -> Batch:
        return Batch.from_frames(frames, CUTOFF, dtype=dtype, neighbors=neighbors)

    return make


@pytest.fixture
def rotation() -> np.ndarray:
    """A rotation with a reflection."""
    q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    return q * (-np.sign(np.linalg.det(q)))
