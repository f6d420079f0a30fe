"""A minimum of the energy and its harmonic frequencies, and what the error of the model makes of them.

To first order in the weights, at the minimum x with Hessian H and normal modes d (Cartesian, d^T M d = 1, d^T H d = l):
a draw whose forces differ by dF moves the minimum by ``dx = H^-1 dF``, and changes the curvature along a mode by

    dl = - d . (dF(x + h d) - dF(x - h d)) / 2h + t . dx,       t = (g(x + h d) + g(x - h d) - 2 g(x)) / h^2

the draw's own curvature, and that of the model at the place that the draw moves to; g is the gradient. No draw is
relaxed. Soft modes move far, and first order is then a guess. The forces of draws have the size that the calibration
gives the forces at the minimum: sum of the calibrated variances over sum of the raw ones, one factor for the structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.errors import UncertaintyError
from equimd.model.interface import Model
from equimd.shown import Shown
from equimd.units import AMU_A2_PER_FS2
from equimd.uq.draws import DRAWS, drawn_weights
from equimd.uq.predict import Calibrated

STEP = 0.005  # Angstrom, of finite differences in float64
STRUCTURES = 16  # at once
PER_CM = 1 / (2 * np.pi * 2.99792458e-5 * AMU_A2_PER_FS2**0.5)  # 1/cm of a root of eV/(Angstrom^2 amu)
LEAST = 1e-3  # of the largest root mean square of inertia, below which a rotation is none: linear molecules


@dataclass(frozen=True, repr=False)
class Minimum(Shown):
    """A stationary geometry of n atoms with its v vibrations.

    Attributes:
        positions: (n, 3) Angstrom. energy: eV.
        frequencies: (v,) 1/cm, rising; an imaginary one is negative: the geometry is no minimum along it.
        modes: (v, n, 3) Cartesian displacements of unit length.
        displacement: (K, n, 3) Angstrom, from here to the minima of K draws, without turning or shifting the whole.
        shift: (K, v) 1/cm, of the frequencies of draws. Both None without a calibration.
    """

    positions: np.ndarray
    energy: float
    frequencies: np.ndarray
    modes: np.ndarray
    displacement: np.ndarray | None = None
    shift: np.ndarray | None = None

    @property
    def frequency_errors(self) -> np.ndarray | None:
        """(v,) 1/cm, standard deviations over the draws."""
        return None if self.shift is None else self.shift.std(0)

    def distances(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(P,) Angstrom between atoms of an open molecule, by index (P, 2), and standard deviations over the draws."""
        i, j = np.asarray(pairs).reshape(-1, 2).T
        between = self.positions[i] - self.positions[j]
        length = np.linalg.norm(between, axis=1)
        if self.displacement is None:
            return length, None
        change = ((self.displacement[:, i] - self.displacement[:, j]) * (between / length[:, None])).sum(-1)
        return length, change.std(0)


def minimum(
    model: Model,
    frames: Frames,
    masses: np.ndarray,
    calibrated: Calibrated | None = None,
    *,
    count: int = DRAWS,
    seed: int = 0,
) -> Minimum:
    """The vibrations about a geometry where the model's forces vanish, and their errors if a calibration is given.

    Args:
        model: conservative, in float64. frames: one structure. masses: (n,) amu.
        calibrated: of the model, on its device. count: draws; seed: of them.

    Raises:
        UncertaintyError: forces that are no gradient, or a precision in which no differences can be taken.
    """
    check_slope(model)
    n = int(frames.n_atoms[0])
    x, root = frames.positions[0], np.repeat(np.sqrt(masses), 3)
    here = _evaluated(model, frames, x[None])
    hessian = _hessian(model, frames, x)
    inside = _vibrating(x, masses, periodic=bool(frames.pbc.any()))
    values, vectors = np.linalg.eigh(inside.T @ (hessian / np.outer(root, root)) @ inside)
    modes = (inside @ vectors).T / root  # (v, 3n), of unit mass
    length = np.linalg.norm(modes, axis=1)
    frequencies = np.sign(values) * np.sqrt(np.abs(values)) * PER_CM
    found = Minimum(x.copy(), float(here[0][0]), frequencies, (modes / length[:, None]).reshape(-1, n, 3))
    if calibrated is None:
        return found
    along = found.modes * STEP
    places = np.concatenate([x[None], x + along, x - along])
    gradient = -_evaluated(model, frames, places)[1].reshape(len(places), -1)
    drawn = _drawn_forces(model, frames, places, calibrated, count, seed).reshape(len(places), -1, count)
    moved = modes.T @ ((modes @ drawn[0]) / values[:, None])  # (3n, K)
    up, down = slice(1, 1 + len(modes)), slice(1 + len(modes), None)
    own = np.einsum("vi,vik->vk", found.modes.reshape(len(modes), -1), drawn[up] - drawn[down]) / (-2 * STEP)
    bend = (gradient[up] + gradient[down] - 2 * gradient[0]) / STEP**2 @ moved
    change = (own + bend) * (length**2)[:, None]
    shift = change / (2 * np.sqrt(np.abs(values)))[:, None] * PER_CM
    return replace(found, displacement=moved.T.reshape(count, n, 3), shift=shift.T)


def check_slope(model: Model) -> None:
    """Refuse a model whose forces have no Hessian, or not to the digits that differences take.

    Raises:
        UncertaintyError: it is one.
    """
    if not (model.conservative and model.has_forces):
        raise UncertaintyError("vibrations need forces that are the slope of the energy", hint="a conservative model")
    if model.dtype != torch.float64:
        raise UncertaintyError("vibrations need a model in float64", hint="model.converted(torch.float64)")


def _at(frames: Frames, positions: np.ndarray) -> Frames:
    return replace(frames.take(np.zeros(len(positions), np.int64)), positions=positions)


def _batches(model: Model, frames: Frames, positions: np.ndarray) -> Iterator[Batch]:
    for start in range(0, len(positions), STRUCTURES):
        part = _at(frames, positions[start : start + STRUCTURES])
        yield Batch.from_frames(part, model.cutoff, dtype=model.dtype, device=model.device)


def _evaluated(model: Model, frames: Frames, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S,) energies and (S, n, 3) forces of some geometries."""
    energy, forces = [], []
    for batch in _batches(model, frames, positions):
        out = model.evaluate(batch)
        energy.append(out["energy"].cpu().numpy())
        forces.append(out["forces"][batch.real].cpu().numpy())
    return np.concatenate(energy), np.concatenate(forces).reshape(positions.shape)


def _hessian(model: Model, frames: Frames, x: np.ndarray) -> np.ndarray:
    """(3n, 3n) eV/Angstrom^2, by central differences of the forces."""
    steps = STEP * np.eye(x.size).reshape(-1, *x.shape)
    forces = _evaluated(model, frames, np.concatenate([x + steps, x - steps]))[1].reshape(2, x.size, x.size)
    found = (forces[1] - forces[0]) / (2 * STEP)
    return 0.5 * (found + found.T)


def _vibrating(x: np.ndarray, masses: np.ndarray, *, periodic: bool) -> np.ndarray:
    """(3n, v) an orthonormal basis, in mass-weighted coordinates, of what neither shifts nor turns the whole."""
    root = np.sqrt(masses)
    rigid = [np.kron(root, axis) for axis in np.eye(3)]
    if not periodic:
        centred = x - masses @ x / masses.sum()
        rigid += [(root[:, None] * np.cross(axis, centred)).ravel() for axis in np.eye(3)]
    left, sizes, _ = np.linalg.svd(np.array(rigid).T, full_matrices=True)
    return left[:, int((sizes > LEAST * sizes[0]).sum()) :]


def _drawn_forces(
    model: Model, frames: Frames, places: np.ndarray, calibrated: Calibrated, count: int, seed: int
) -> np.ndarray:
    """(S, n, 3, K) eV/Angstrom: forces of draws less the model's, as large as the calibration says at the first."""
    posterior = calibrated.layer.forces
    weights, factor = drawn_weights(posterior, count, seed), 0.0
    found: list[np.ndarray] = []
    for batch in _batches(model, frames, places):
        rows = model.rows(batch, width=posterior.width)
        if not found:
            raw, n = calibrated.layer.of_rows(rows, batch), int(batch.n_atoms[0])
            both = (calibrated.apply(raw, batch).force_covariance, raw.force_covariance.cpu().numpy())
            traces = [np.trace(of[:n], axis1=1, axis2=2).sum() for of in both]
            factor = float(np.sqrt(traces[0] / max(traces[1], 1e-300)))
        found.append((rows.forces[batch.real][..., : posterior.width].double() @ weights).cpu().numpy())
    return factor * np.concatenate(found).reshape(*places.shape, count)
