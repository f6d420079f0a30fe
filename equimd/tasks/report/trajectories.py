"""Which frames of a simulation the 3D view has, with the sigma of each atom, packed for the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from equimd.calculators import LoadedModel
from equimd.data.alignment import align
from equimd.md.trajectory import Columns, read
from equimd.tasks.report.page import values

MOST_FLAGGED = 300  # flagged frames of a replica that are all kept; of more, the worst of each stretch of flags
UNKNOWN = 65535  # of a sigma that is not known, in the packed form


@dataclass(frozen=True)
class Shot:
    """Frames of one replica, in the order of their steps.

    Attributes:
        step, time: (F,), time in ps. temperature, sigma: (F,) K, eV/Angstrom; NaN where not known.
        positions: (F, n, 3) Angstrom. atom_sigma: (F, n) eV/Angstrom, NaN where not known.
        mark: what the guard said of each frame, empty where nothing.
        saved: how many frames the trajectory has. taken: how many of them are here; spoken_of: how many come from
            flagged.extxyz.
    """

    replica: int
    step: np.ndarray
    time: np.ndarray
    temperature: np.ndarray
    sigma: np.ndarray
    positions: np.ndarray
    atom_sigma: np.ndarray
    mark: tuple[str, ...]
    saved: int
    taken: int
    spoken_of: int = 0

    def __len__(self) -> int:
        return len(self.step)


def chosen(columns: Columns, most: int) -> np.ndarray:
    """Rows of at most ``most`` frames taken evenly, and of flagged ones, in rising order."""
    n = len(columns.step)
    even = np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)
    flagged = np.flatnonzero(columns.observables["flagged"] > 0) if "flagged" in columns.observables else even[:0]
    if len(flagged) > MOST_FLAGGED:
        sigma = columns.observables["force_sigma"]
        stretches = np.split(flagged, np.flatnonzero(np.diff(flagged) > 1) + 1)
        flagged = np.array([rows[np.argmax(sigma[rows])] for rows in stretches])
    return np.union1d(even, flagged)


def shot(replica: int, path: Path, columns: Columns, most: int, suspects: Sequence[Any], dt: float) -> Shot:
    """The frames of a replica that are shown: some saved ones, and those that the guard spoke about.

    Args:
        suspects: frames of flagged.extxyz of this replica. dt: time of a step, fs.
    """
    part = read(path, chosen(columns, most))
    n = len(part.numbers)
    nothing = np.full(len(part), np.nan)
    flagged = part.observables.get("flagged", np.zeros(len(part))) > 0
    found = Shot(
        replica,
        part.step,
        part.time / 1000,
        part.observables.get("temperature", nothing),
        part.observables.get("force_sigma", nothing),
        part.positions,
        np.asarray(part.atoms.get("force_sigma", np.full((len(part), n), np.nan)), np.float64),
        tuple("flagged" if f else "" for f in flagged),
        len(columns.step),
        len(part),
    )
    return _with(found, suspects, dt)


def _with(found: Shot, suspects: Sequence[Any], dt: float) -> Shot:
    """And the frames that the guard spoke about, in the place of saved ones of the same step."""
    if not suspects:
        return found
    said = {"halt": "refused", "flag": "flagged"}
    steps = np.array([int(a.info["step"]) for a in suspects])
    unknown = np.full(len(found.positions[0]), np.nan)
    kept = ~np.isin(found.step, steps)
    joined = {
        "step": np.concatenate([found.step[kept], steps]),
        "time": np.concatenate([found.time[kept], steps * dt / 1000]),
        "temperature": np.concatenate([found.temperature[kept], np.full(len(steps), np.nan)]),
        "sigma": np.concatenate([found.sigma[kept], [_sigma(a) for a in suspects]]),
        "positions": np.concatenate([found.positions[kept], [a.positions for a in suspects]]),
        "atom_sigma": np.concatenate([found.atom_sigma[kept], [a.arrays.get("atom_score", unknown) for a in suspects]]),
    }
    marks = [m for m, k in zip(found.mark, kept, strict=True) if k]
    marks += [f"{said.get(str(a.info['action']), 'flagged')}: {a.info['reason']}" for a in suspects]
    order = np.argsort(joined["step"], kind="stable")
    arrays: dict[str, Any] = {name: array[order] for name, array in joined.items()}
    mark = tuple(marks[k] for k in order)
    return replace(found, **arrays, mark=mark, taken=int(kept.sum()), spoken_of=len(steps))


def _sigma(atoms: Any) -> float:
    return float(atoms.info["score"]) if atoms.info["code"] == "force sigma" else float("nan")


def with_sigmas(
    shots: Sequence[Shot], template: Any, model: LoadedModel, told: Callable[[int, int], None]
) -> list[Shot]:
    """The sigma of each atom of frames that the trajectory has none of: those that the screen cleared.

    Args:
        template: the molecule as ASE ``Atoms``, with cell, charge and multiplicity.
        told: frames done, and their number.

    Raises:
        UncertaintyError: the model is not calibrated, or has changed since.
    """
    lacking = [~np.isfinite(s.atom_sigma).all(1) for s in shots]
    structures = []
    for s, rows in zip(shots, lacking, strict=True):
        for x in s.positions[rows]:
            structures.append(template.copy())
            structures[-1].positions = x
    if not structures:
        return list(shots)
    predicted = np.array([p.atom_forces_std for p in model.predict(structures, uncertainty=True, progress=told)])
    found, start = [], 0
    for s, rows in zip(shots, lacking, strict=True):
        filled = s.atom_sigma.copy()
        filled[rows] = predicted[start : start + int(rows.sum())]
        start += int(rows.sum())
        found.append(replace(s, atom_sigma=filled))
    return found


def packed(s: Shot, *, turn: bool) -> dict[str, Any]:
    """A replica's frames for the page: positions as 16-bit integers, sigmas in meV/Angstrom.

    Args:
        turn: superpose each frame on the first, so that a tumbling molecule stands still.
    """
    x = (
        s.positions - s.positions.mean(1, keepdims=True)
        if turn
        else s.positions - s.positions[:1].mean(1, keepdims=True)
    )
    if turn and x.shape[1] > 2:
        x = align(x, np.broadcast_to(x[:1], x.shape))[1]
    unit = max(float(np.abs(x).max()) / 32000, 1e-4)
    sigma = np.where(np.isfinite(s.atom_sigma), np.clip(1000 * np.nan_to_num(s.atom_sigma), 0, UNKNOWN - 1), UNKNOWN)
    known = bool((sigma != UNKNOWN).any())
    return {
        "replica": s.replica,
        "step": s.step.tolist(),
        "time": values(s.time),
        "temperature": values(s.temperature),
        "sigma": values(s.sigma),
        "mark": list(s.mark),
        "unit": unit,
        "positions": _text(np.round(x / unit).astype("<i2")),
        "sigmas": _text(sigma.round().astype("<u2")) if known else None,
    }


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
