"""One label: energy and forces of one frame by a reference method, or why there are none."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from equimd.data.frames import Frames
from equimd.methods import make_method

LONGEST_REASON = 300  # characters of a failure that are kept


@dataclass(frozen=True)
class Label:
    """What the reference method said of a frame.

    Attributes:
        energy: eV, NaN where it failed. forces: (n, 3) eV/Angstrom, NaN where it failed.
        theory: the method's own name. seconds: what the call took.
        failed: why there is no label, one line; empty where there is one.
    """

    energy: float
    forces: np.ndarray
    theory: str = ""
    seconds: float = 0.0
    failed: str = ""

    @classmethod
    def failure(cls, frame: Frames, reason: str, seconds: float = 0.0) -> Label:
        """No label for a block of one frame."""
        line = (reason.strip().splitlines() or ["no reason given"])[0][:LONGEST_REASON]
        return cls(float("nan"), np.full(frame.positions[0].shape, np.nan), "", seconds, line)


def ask(calculator: str, frame: Frames) -> Label:
    """Ask a method, by its name, for the label of a block of one frame. Whatever goes wrong is a label that failed.

    Energies and forces that are not finite are failures too.
    """
    began = time.monotonic()
    try:
        atoms = frame.to_ase()[0]
        atoms.calc = None
        method = make_method(calculator, atoms, int(frame.charge[0]), int(frame.spin[0]))
        energy, forces = method.label(frame.positions[0])
        forces = np.asarray(forces, np.float64)
    except Exception as error:  # a method of someone else's may raise anything; one frame less is no reason to stop
        return Label.failure(frame, f"{type(error).__name__}: {error}", time.monotonic() - began)
    seconds = time.monotonic() - began
    if forces.shape != frame.positions[0].shape:
        return Label.failure(frame, f"forces of shape {forces.shape}", seconds)
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        return Label.failure(frame, "the energy or the forces are not finite", seconds)
    return Label(float(energy), forces, method.theory, seconds)
