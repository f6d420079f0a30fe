"""Frames before a halt, for labelling: from the refused frame alone a model learns one point of where it is wrong."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from equimd.data.system import System
from equimd.files import write_atomic
from equimd.guard.flags import SuspectFrame
from equimd.md.trajectory import read, read_columns

BEFORE_FILE = "before_halts.extxyz"
COUNT, APART = 4, 50.0  # frames a halt, and the time between them, fs: some periods of a stretch
MOST_HALTS = 50


def write_frames_before(
    folder: Path, system: System, halts: Sequence[SuspectFrame], paths: Mapping[int, Path], state: Mapping[str, int]
) -> None:
    """Extended XYZ of the last frames before each halt, ``APART`` fs from each other, with replica and step.

    Args:
        paths: trajectories by replica. state: charge and spin, where stated.
    """
    from ase import Atoms
    from ase.io import write

    frames, cell = [], None if system.cell is None else system.cell.cpu().numpy()
    for halt in halts[:MOST_HALTS]:
        path = paths.get(halt.replica)
        times = np.empty(0) if path is None else read_columns(path).time
        if path is None or not len(times):
            continue
        wanted = times[-1] - APART * np.arange(1, COUNT + 1)
        rows = {int(np.abs(times - t).argmin()) for t in wanted if t >= times[0]}
        for row in sorted(rows):
            part = read(path, slice(row, row + 1))
            atoms = Atoms(part.numbers, part.positions[0], cell=cell, pbc=system.pbc)
            atoms.info = {"replica": halt.replica, "step": int(part.step[0]), "halted_at": halt.step, **state}
            frames.append(atoms)
    if frames:
        text = io.StringIO()
        write(text, frames, format="extxyz")
        write_atomic(folder / BEFORE_FILE, text.getvalue())
