"""Small random potentials, structures to ask them about, and the tolerances of every physics test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.model.painn.potential import Potential

CUTOFF = 3.5  # Angstrom; below the size of the test structures, so that the cutoff matters
ELEMENTS = (1, 6, 7, 8)


@dataclass(frozen=True)
class Tolerances:
    """What counts as equal, for energies of about 1 eV and forces of about 1 eV/Angstrom.

    Attributes:
        same: the same sums in another order (batches, padding, layouts, permutation); relative to the largest value.
        symmetry: the same structure in other coordinates, whose input is rounded differently; relative.
        zero: sums of forces that vanish, relative to the largest force.
        difference_step: displacement of central differences, Angstrom.
        difference: central differences against the derivative; relative.
    """

    same: float
    symmetry: float
    zero: float
    difference_step: float
    difference: float


TOLERANCES = {
    torch.float64: Tolerances(same=1e-12, symmetry=1e-11, zero=1e-12, difference_step=1e-4, difference=1e-6),
    torch.float32: Tolerances(same=1e-5, symmetry=5e-5, zero=1e-5, difference_step=1e-2, difference=1e-2),
}


@dataclass(frozen=True)
class Case:
    """One potential and what holds for it."""

    model: Potential
    tolerances: Tolerances

    @property
    def direct(self) -> bool:
        return self.model.force_head is not None

    def batch(self, frames: Frames, neighbors: str = "auto") -> Batch:
        return Batch.from_frames(frames, CUTOFF, dtype=self.model.dtype, neighbors=neighbors)

    def __call__(self, frames: Frames, neighbors: str = "auto") -> dict[str, torch.Tensor]:
        return self.model(self.batch(frames, neighbors))

    def same(self, a: torch.Tensor, b: torch.Tensor, tolerance: float | None = None) -> None:
        """Equal to ``tolerance`` times the largest value of b."""
        tolerance = self.tolerances.same if tolerance is None else tolerance
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max().clamp(min=1e-3)))


@cache
def build_model(dtype: str, forces: str, lmax: int, **settings: object) -> Potential:
    """A potential with random weights, none of them (biases included) left at zero."""
    config = {"num_features": 8, "num_layers": 2, "num_rbf": 8, "num_readout": 6, "elements": ELEMENTS} | settings
    config = ModelConfig(dtype=dtype, forces=forces, lmax=lmax, cutoff=CUTOFF, **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lmax)
        model = Potential(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, dtype=torch.float64).to(parameter.dtype)
    return model.eval()


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Any potential: make_case(dtype="float64", forces="conservative", lmax=1, **settings of ModelConfig)."""

    def make(dtype: str = "float64", forces: str = "conservative", lmax: int = 1, **settings: object) -> Case:
        return Case(build_model(dtype, forces, lmax, **settings), TOLERANCES[getattr(torch, dtype)])

    return make


@pytest.fixture(params=[1, 2], ids=["lmax1", "lmax2"])
def lmax(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["conservative", "direct"])
def case(request: pytest.FixtureRequest, dtype: str, lmax: int, make_case: Callable[..., Case]) -> Case:
    """Every kind of potential."""
    return make_case(dtype, request.param, lmax)


@pytest.fixture
def conservative(dtype: str, make_case: Callable[..., Case]) -> Case:
    """A conservative potential of each precision."""
    return make_case(dtype)


@pytest.fixture
def make_frames() -> Callable[..., Frames]:
    """make_frames(5, 8, seed=0): frames of 5 and 8 random atoms, 0.9 Angstrom or more apart, 12 Angstrom^3 an atom."""

    def make(*sizes: int, seed: int = 0) -> Frames:
        rng = np.random.default_rng(seed)
        return Frames.concatenate([random_frame(rng, n) for n in sizes])

    return make


def random_frame(rng: np.random.Generator, n: int) -> Frames:
    width = 0.5 * (12.0 * n) ** (1 / 3)
    points: list[np.ndarray] = []
    while len(points) < n:
        point = rng.uniform(-width, width, 3)
        if all(np.linalg.norm(point - other) > 0.9 for other in points):
            points.append(point)
    return Frames.build(rng.choice(ELEMENTS, (1, n)), np.array([points]))
