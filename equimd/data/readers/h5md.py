"""Trajectories of equimd's own runs (H5MD, see :mod:`equimd.md.trajectory`) as frames: where the atoms were.

Their energies and forces are a model's, not a reference's, and are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from equimd.data.frames import Frames
from equimd.data.hdf5 import dataset, open_hdf5, reading
from equimd.data.readers.raw import Raw, ReadOptions

GROUP = "trajectory"  # the one group of particles; MDAnalysis looks for this name
PARTICLES = f"particles/{GROUP}"
NOTE = "a trajectory: the energies and forces in it are a model's, not labels, and are left out"


def is_trajectory(path: Path) -> bool:
    """Whether an HDF5 file holds a trajectory.

    Raises:
        DataError: HDF5 cannot open it.
    """
    with open_hdf5(path) as file, reading(path, "it cannot be read"):
        return "h5md" in file and f"{PARTICLES}/position/value" in file


def read_h5md(path: Path, _: ReadOptions) -> Raw:
    """All frames of a trajectory, without labels.

    Raises:
        DataError: damaged, or positions that are not finite.
    """
    with open_hdf5(path) as file, reading(path, "the trajectory cannot be read"):
        group = file[PARTICLES]
        positions, step = dataset(group, "position/value")[()], dataset(group, "position/step")[()]
        numbers, box = dataset(group, "species")[()], group["box"]
        periodic = np.char.equal(np.asarray(box.attrs["boundary"]).astype(str), "periodic")
        cell = dataset(box, "edges/value")[()] if "edges" in box else np.zeros((len(positions), 3, 3))
        if "rotation" in box:
            back = dataset(box, "rotation")[()].T
            positions, cell = positions @ back, cell @ back
        pbc = np.broadcast_to(periodic, (len(positions), 3))
        block = Frames.build(numbers, positions, None, None, cell, pbc, where=str(path))
    one = np.zeros(len(block), np.int64)
    return Raw(block, "h5md", str(path), "eV", "Angstrom", trajectory=one, time_index=step, extra={"notes": [NOTE]})
