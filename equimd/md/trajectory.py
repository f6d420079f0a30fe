"""Trajectories in H5MD 1.1 (de Buyl et al. 2014), one file a replica, readable by MDAnalysis.

    particles/trajectory/{position,velocity,force,...}/{value,step,time}    per atom
    particles/trajectory/{species,mass}                                     (n,) atomic numbers, amu
    particles/trajectory/box                                                boundary, and edges if periodic, rotation
    observables/trajectory/<name>/{value,step,time}                         one number a frame

Forces are in kJ mol-1 Angstrom-1 because that is the unit in this file format that MDAnalysis knows; :func:`read` gives
eV/Angstrom back. Positions are float64, velocities, forces and other per-atom values float32, observables float64.

Readers such as MDAnalysis know a cell by lengths and angles, its first vector along x, and find nearest images in
reduced cells alone. Where the cell is another one, edges are those of a reduced cell in that orientation, and vectors
are turned with it; :func:`read` turns them back by ``rotation``.

A block of frames is added to a copy of the file that then takes its place, so that whenever the process is killed, or
the disk is full, the file on disk is whole and opens. To keep the copying cheap, blocks grow with the file (``due``).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from equimd.data.hdf5 import DAMAGED, writing
from equimd.data.readers.h5md import GROUP, PARTICLES
from equimd.errors import DataError, MachineError
from equimd.files import replacing
from equimd.shown import Shown
from equimd.units import KJ_PER_MOL

if TYPE_CHECKING:
    import h5py

    from equimd.data.system import System

CHUNK = 64  # frames
BLOCK = 100  # frames written at once, at least ...
GROWTH = 0.02  # ... and at least this fraction of what is in the file already
UNITS = {"position": "Angstrom", "velocity": "Angstrom fs-1", "force": "kJ mol-1 Angstrom-1"}
KNOWN = (*UNITS, "box", "species", "mass")  # the other members of the particle group are per-atom values


@dataclass(frozen=True, repr=False)
class Frame(Shown):
    """One frame of one replica.

    Attributes:
        step: time step; ``time``: fs.
        positions, velocities, forces: (n, 3) Angstrom, Angstrom/fs, eV/Angstrom.
        observables: one number each, such as ``temperature``.
        atoms: (n,) or (n, k) each, such as a sigma per atom.
    """

    step: int
    time: float
    positions: np.ndarray
    velocities: np.ndarray
    forces: np.ndarray
    observables: Mapping[str, float] = field(default_factory=dict)
    atoms: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Trajectory(Shown):
    """T frames of one replica, as read back: (T, n, 3) arrays, units as in :class:`Frame`."""

    numbers: np.ndarray
    masses: np.ndarray
    step: np.ndarray
    time: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    forces: np.ndarray
    observables: dict[str, np.ndarray]
    atoms: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.step)

    def take(self, frames: slice) -> Trajectory:
        """Some of the frames."""
        own = {name: getattr(self, name)[frames] for name in ("step", "time", "positions", "velocities", "forces")}
        observables = {name: values[frames] for name, values in self.observables.items()}
        atoms = {name: values[frames] for name, values in self.atoms.items()}
        return Trajectory(self.numbers, self.masses, **own, observables=observables, atoms=atoms)


def trajectory_path(folder: Path, replica: int, count: int) -> Path:
    """``trajectory.h5md`` of a single replica, ``trajectory-007.h5md`` of one of several; or the one that stands there
    under the name of earlier versions, ``traj.h5``."""
    number = "" if count == 1 else f"-{replica:03d}"
    former = folder / f"traj{number}.h5"
    return former if former.is_file() else folder / f"trajectory{number}.h5md"


def trajectory_files(folder: Path) -> list[Path]:
    """The trajectories in a folder, of all replicas, under today's name or the former one."""
    return sorted([*folder.glob("trajectory*.h5md"), *folder.glob("traj*.h5")])


class TrajectoryWriter:
    """Frames of one replica to one file.

    Args:
        path: of the file.
        system: whose frames they are.
        units: of observables and per-atom values, by name.
        resume_step: keep the frames of an existing file up to this step and go on behind them; None starts anew.

    Raises:
        DataError: there is a file already, or the one to go on with is not a trajectory of this system.
    """

    def __init__(
        self, path: Path, system: System, *, units: Mapping[str, str] | None = None, resume_step: int | None = None
    ) -> None:
        self.path, self.system, self.units = path, system, dict(units or {})
        self.buffer: list[Frame] = []
        self.written, self._too_long = 0, False
        if resume_step is not None and path.exists():
            self.written, frames = _frames_up_to(path, resume_step, system)
            self._too_long = frames > self.written
        elif resume_step is None and path.exists():
            raise DataError("is there already", where=str(path), hint="another output folder")

    def append(self, frame: Frame) -> None:
        """Take a frame; it is on disk after the next :meth:`flush`."""
        self.buffer.append(frame)

    @property
    def due(self) -> bool:
        """Whether there are enough frames for a block."""
        return len(self.buffer) >= max(BLOCK, int(GROWTH * self.written))

    def flush(self) -> None:
        """Put all frames on disk.

        Raises:
            MachineError: the disk is full or fails; the file is as it was before, and the frames are kept.
        """
        if not self.buffer and not self._too_long:
            return
        try:
            with replacing(self.path) as temporary:
                if self.path.exists():
                    shutil.copyfile(self.path, temporary)
                _append(temporary, self.system, self.buffer, self.written, self.units)
        except (OSError, RuntimeError) as error:  # h5py reports a failed write as either
            hint = "free some space, then go on with --resume"
            what = f"cannot be written ({error}); its earlier frames are intact"
            raise MachineError(what, where=str(self.path), hint=hint) from None
        self.written += len(self.buffer)
        self.buffer, self._too_long = [], False


def _frames_up_to(path: Path, step: int, system: System) -> tuple[int, int]:
    """How many frames of a file are no later than a step, and how many there are."""
    with _open(path) as file:
        group = file[PARTICLES]
        if not np.array_equal(group["species"][...], system.numbers.cpu().numpy()):
            raise DataError("is a trajectory of another system", where=str(path))
        steps = group["position/step"][...]
        return int(np.searchsorted(steps, step, side="right")), len(steps)


def _append(path: Path, system: System, frames: Sequence[Frame], start: int, units: Mapping[str, str]) -> None:
    """Write frames behind the first ``start`` ones, dropping what stood there."""
    with writing(path) as file:
        if "h5md" not in file:
            _create(file, system, frames[0], units)
        particles, observables = file[PARTICLES], file["observables"][GROUP]
        stop = start + len(frames)

        def put(dataset: h5py.Dataset, values: Any) -> None:
            dataset.resize(stop, axis=0)
            if frames:
                dataset[start:stop] = values

        put(particles["position/step"], [f.step for f in frames])
        put(particles["position/time"], [f.time for f in frames])
        turn = particles["box/rotation"][...] if "rotation" in particles["box"] else None
        put(particles["position/value"], [_turned(f.positions, turn) for f in frames])
        put(particles["velocity/value"], [_turned(f.velocities, turn) for f in frames])
        put(particles["force/value"], [_turned(f.forces, turn) / KJ_PER_MOL for f in frames])
        for name in set(particles) - set(KNOWN):
            put(particles[f"{name}/value"], [f.atoms[name] for f in frames])
        for name in observables:
            put(observables[f"{name}/value"], [f.observables[name] for f in frames])
        if system.lattice is not None and system.cell is not None:
            box = particles["box/edges/value"]
            edges = box[0] if start else system.lattice.standard(system.cell.cpu().numpy())[0]
            put(box, np.broadcast_to(edges, (len(frames), 3, 3)))


def _turned(vectors: np.ndarray, rotation: np.ndarray | None) -> np.ndarray:
    return vectors if rotation is None else vectors @ rotation


def _create(file: h5py.File, system: System, first: Frame, units: Mapping[str, str]) -> None:
    """The empty groups and data sets of a new file."""
    from equimd.files import versions

    head = file.create_group("h5md")
    head.attrs["version"] = np.array([1, 1])
    head.create_group("author").attrs["name"] = "equimd"
    creator = head.create_group("creator")
    creator.attrs["name"], creator.attrs["version"] = "equimd", versions()["equimd"]
    particles = file.create_group(PARTICLES)
    observables = file.create_group(f"observables/{GROUP}")
    n = system.n_atoms

    def element(parent: h5py.Group, name: str, shape: tuple[int, ...], dtype: type, unit: str | None) -> None:
        group = parent.create_group(name)
        value = group.create_dataset("value", (0, *shape), dtype, maxshape=(None, *shape), chunks=(CHUNK, *shape))
        if unit:
            value.attrs["unit"] = unit
        for shared in ("step", "time"):
            if name != "position":  # hard links: all elements are of the same steps
                group[shared] = particles[f"position/{shared}"]
        if name == "position":
            group.create_dataset("step", (0,), np.int64, maxshape=(None,), chunks=(CHUNK,))
            group.create_dataset("time", (0,), np.float64, maxshape=(None,), chunks=(CHUNK,)).attrs["unit"] = "fs"

    element(particles, "position", (n, 3), np.float64, UNITS["position"])
    element(particles, "velocity", (n, 3), np.float32, UNITS["velocity"])
    element(particles, "force", (n, 3), np.float32, UNITS["force"])
    for name, array in first.atoms.items():
        element(particles, name, np.shape(array), np.float32, units.get(name))
    for name in first.observables:
        element(observables, name, (), np.float64, units.get(name))
    particles["species"] = system.numbers.cpu().numpy()
    particles["mass"] = system.masses.cpu().numpy()
    particles["mass"].attrs["unit"] = "amu"
    box = particles.create_group("box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if p else "none" for p in system.pbc]
    if system.lattice is not None and system.cell is not None:
        element(box, "edges", (3, 3), np.float64, UNITS["position"])
        _, rotation = system.lattice.standard(system.cell.cpu().numpy())
        if (rotation != np.eye(3)).any():
            box["rotation"] = rotation


def _open(path: Path) -> h5py.File:
    import h5py

    if not path.is_file():
        raise DataError("there is no such file", where=str(path))
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"is not an HDF5 file, or damaged ({error})", where=str(path), hint=DAMAGED) from None
    if f"{PARTICLES}/position/value" not in file:
        file.close()
        raise DataError("is not an H5MD trajectory written by equimd", where=str(path))
    return file


class Columns(NamedTuple):
    """What is one number a frame: (T,) each."""

    step: np.ndarray
    time: np.ndarray
    observables: dict[str, np.ndarray]

    def thinned(self, values: np.ndarray, most: int, of: str = "mean") -> tuple[np.ndarray, np.ndarray]:
        """Times in ps and values, at most ``most`` of them: the ``mean`` or the largest (``max``) of each stretch."""
        time = self.time / 1000
        size = -(-len(time) // most)
        if size <= 1:
            return time, values
        edges = np.arange(0, len(time), size)
        counts = np.diff(np.append(edges, len(time)))
        if of == "mean":
            return np.add.reduceat(time, edges) / counts, np.add.reduceat(values, edges) / counts
        return np.add.reduceat(time, edges) / counts, np.maximum.reduceat(values, edges)


def read_columns(path: str | Path) -> Columns:
    """Steps, times (fs) and observables of all frames, without the atoms.

    Raises:
        DataError: missing, damaged, or not such a file.
    """
    with _open(Path(path)) as file:
        particles, observables = file[PARTICLES], file["observables"][GROUP]
        values = {name: observables[f"{name}/value"][...] for name in observables}
        return Columns(particles["position/step"][...], particles["position/time"][...], values)


def read_system(path: str | Path) -> System:
    """Elements, masses and cell of the atoms in a file. Of a cell that readers such as MDAnalysis do not know, the
    reduced one of the same lattice.

    Raises:
        DataError: missing, damaged, or not such a file.
    """
    from equimd.data.system import System

    with _open(Path(path)) as file:
        particles, box = file[PARTICLES], file[PARTICLES]["box"]
        periodic = np.char.equal(np.asarray(box.attrs["boundary"]).astype(str), "periodic").tolist()
        cell = box["edges/value"][0] if any(periodic) else None
        if cell is not None and "rotation" in box:
            cell = cell @ box["rotation"][...].T
        pbc = (periodic[0], periodic[1], periodic[2])
        return System.build(particles["species"][...], masses=particles["mass"][...], cell=cell, pbc=pbc)


def read(path: str | Path, frames: slice | np.ndarray = slice(None)) -> Trajectory:
    """Frames of a file written by :class:`TrajectoryWriter`; ``frames`` selects, such as ``slice(0, None, 10)``, or
    rows in rising order.

    Raises:
        DataError: missing, damaged, or not such a file.
    """
    with _open(Path(path)) as file:
        particles, observables = file[PARTICLES], file["observables"][GROUP]
        back = particles["box/rotation"][...].T if "rotation" in particles["box"] else None
        return Trajectory(
            particles["species"][...],
            particles["mass"][...],
            particles["position/step"][frames],
            particles["position/time"][frames],
            _turned(particles["position/value"][frames], back),
            _turned(particles["velocity/value"][frames].astype(np.float64), back),
            _turned(particles["force/value"][frames].astype(np.float64), back) * KJ_PER_MOL,
            {name: observables[f"{name}/value"][frames] for name in observables},
            {name: particles[f"{name}/value"][frames] for name in particles if name not in KNOWN},
        )
