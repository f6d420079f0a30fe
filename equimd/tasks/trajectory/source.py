"""What a trajectory is given by, a simulation's folder or a file, as the frames of its replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.given import BUNDLED
from equimd.data.hdf5 import reading
from equimd.data.paths import existing, selection
from equimd.data.readers.opening import detect, open_dataset
from equimd.data.readers.structures import read_structures
from equimd.data.system import System
from equimd.errors import DataError
from equimd.md.ensembles import ENSEMBLES
from equimd.md.recorded import UNREADABLE, Recorded
from equimd.md.simulation import SUSPECTS_FILE
from equimd.md.structures import ATOM
from equimd.md.trajectory import Trajectory, read_system, trajectory_files, trajectory_path
from equimd.tasks.simulate.session import SETTINGS_FILE
from equimd.tasks.simulate.settings import SimulationSettings, parse_settings, read_settings
from equimd.tasks.simulate.start import START_FILE, Start

if TYPE_CHECKING:
    from ase import Atoms

HINT = "a folder that equimd simulate made, a trajectory in it, or a file of frames of one molecule"
OWN_COLUMNS = {"step", "time_fs", "charge", "spin"}  # of extended XYZ that equimd wrote, and no observables
OF_ASE = {"numbers", "positions", "momenta", "masses", "tags", "initial_charges", "initial_magmoms", "move_mask"}


@dataclass(frozen=True)
class Source:
    """Frames of one molecule or crystal.

    Attributes:
        name: what it was given by.
        reference: (n, 3) Angstrom, a geometry whose bonds are those that are meant.
        runs: frames by replica. state: charge and spin, where they are stated.
        conserved: name of the conserved quantity, where it is known.
        suspects: frames that the guard halted at or flagged.
        notes: what could not be taken from it.
        settings: of the simulation that made it; identity: hashes of its model and calibration. None of other files.
    """

    name: str
    system: System
    reference: np.ndarray
    runs: dict[int, Recorded]
    state: dict[str, int] = field(default_factory=dict)
    conserved: str = "conserved quantity"
    suspects: tuple[Atoms, ...] = ()
    notes: tuple[str, ...] = ()
    settings: SimulationSettings | None = None
    identity: Mapping[str, Any] | None = None

    @property
    def temperature(self) -> float | None:
        """K, of the bath that the frames are of; None where there is none, or it is not known."""
        known = self.settings is not None and not ENSEMBLES[self.settings.ensemble].constant_energy
        return self.settings.temperature if known and self.settings is not None else None


def open_source(given: str | Path, replica: int | None = None, interval: float | None = None) -> Source:
    """The frames of a simulation's folder or of a file, all or, as in ``md@::10``, some of each replica.

    Args:
        replica: of a simulation, one of its replicas alone.
        interval: fs between the frames of a file that does not say their times.

    Raises:
        DataError: missing, damaged, no frames, or frames of several molecules. RunError: a damaged simulation.
    """
    name, chosen = selection(given)
    if name.startswith(BUNDLED) and replica is None:
        return _of_structures(given, interval)
    path = existing(name)
    if path.is_dir() and (path / START_FILE).is_file():
        return _of_simulation(path, chosen, replica)
    if replica is not None:
        raise DataError("is no simulation: it has no replicas", where=str(given), hint="leave out --replica")
    if _format(path) == "h5md":
        run = _recorded(path, chosen)
        with reading(path, UNREADABLE):
            system = read_system(path)
        found = Source(str(given), system, run.read(slice(0, 1)).positions[0], {0: run})
        return _with_simulation(found, path)
    return _of_structures(given, interval)


def _format(path: Path) -> str:
    try:
        return detect(path)
    except DataError:
        if path.is_dir():
            raise DataError("is no simulation, and holds no frames", where=str(path), hint=HINT) from None
        raise


def _recorded(path: Path, chosen: slice | None) -> Recorded:
    run = Recorded.of(path, chosen)
    if not len(run):
        raise DataError("holds no frames", where=str(path), hint="a run that was not halted at once")
    return run


def _with_simulation(found: Source, path: Path) -> Source:
    """With what is known of the simulation in whose folder a trajectory is, if it is in one."""
    folder = path.parent
    if path not in trajectory_files(folder) or not (folder / START_FILE).is_file():
        return found
    start, meta = Start.load(folder)
    return replace(found, state=start.state, settings=_settings(folder), identity=meta["identity"])


def _settings(folder: Path) -> SimulationSettings:
    path = folder / SETTINGS_FILE
    return parse_settings(read_settings(str(path)), where=str(path))


def _of_simulation(folder: Path, chosen: slice | None, replica: int | None) -> Source:
    start, meta = Start.load(folder)
    settings = _settings(folder)
    numbers = range(settings.first_replica, settings.first_replica + settings.replicas)
    if replica is not None and replica not in numbers:
        known = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]} alone"
        raise DataError(f"no replica {replica}", where=str(folder), hint=f"there is {known}")
    runs = {}
    for r in numbers if replica is None else [replica]:
        trajectory = trajectory_path(folder, r, len(numbers))
        if trajectory.is_file():
            runs[r] = _recorded(trajectory, chosen)
    if not runs:
        raise DataError("no frame was saved", where=str(folder), hint="its summary.json says why")
    file = folder / SUSPECTS_FILE
    suspects = read_structures(file) if file.is_file() and file.stat().st_size else []
    return Source(
        str(folder), start.system(), start.reference.numpy(), runs, start.state,
        ENSEMBLES[settings.ensemble].conserved,
        tuple(a for a in suspects if int(a.info.get("replica", -1)) in runs),
        settings=settings, identity=meta["identity"],
    )  # fmt: skip


def _of_structures(given: str | Path, interval: float | None) -> Source:
    """A file of any format: what ASE's objects hold, and energies and forces where their units are known."""
    images = read_structures(given)
    first, where = images[0], str(given)
    for k, a in enumerate(images):
        if not (np.array_equal(a.numbers, first.numbers) and np.array_equal(a.pbc, first.pbc)):
            hint = "frames of one molecule, in one order; equimd data convert takes several"
            raise DataError(
                "is of another molecule or atom order than the first", where=f"{where}, frame {k}", hint=hint
            )
        if first.pbc.any() and not np.allclose(a.cell.array, first.cell.array, atol=1e-6):
            raise DataError("is of another cell than the first: the volume changes", where=f"{where}, frame {k}",
                            hint="frames of one cell")  # fmt: skip
    notes: list[str] = []
    part = _trajectory(images, interval, *_labels(given, images, notes))
    if not np.isfinite(part.time).all():
        notes.append("times: the file does not say them (--interval)")
    cell = first.cell.array if first.pbc.any() else None
    fixed = _held(first)
    pbc = (bool(first.pbc[0]), bool(first.pbc[1]), bool(first.pbc[2]))
    system = System.build(first.numbers, masses=first.get_masses(), cell=cell, pbc=pbc, fixed=fixed)
    state = {k: int(first.info[k]) for k in ("charge", "spin") if isinstance(first.info.get(k), int | np.integer)}
    return Source(where, system, first.positions.copy(), {0: Recorded.of(part)}, state, notes=tuple(notes))


def _held(atoms: Atoms) -> np.ndarray | None:
    from equimd.tasks.simulate.start import held_fixed

    fixed = held_fixed(atoms, "first frame")
    return fixed if fixed.any() else None


def _labels(given: str | Path, images: Sequence[Atoms], notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(T,) eV and (T, n, 3) eV/Angstrom; NaN where there are none, or in units that are not known."""
    shape = (len(images), len(images[0]), 3)
    if all("time_fs" in a.info and a.calc is not None for a in images):  # written by equimd
        results = [a.calc.results for a in images]
        energy = np.array([r.get("energy", np.nan) for r in results], np.float64)
        return energy, np.array([r.get("forces", np.full(shape[1:], np.nan)) for r in results])
    data = open_dataset(given, check_units=False)
    problem = data.info.extra.get("units_problem")
    if problem:
        notes.append(f"energies and forces: {problem}")
        return np.full(shape[0], np.nan), np.full(shape, np.nan)
    frames = data.frames()
    return np.asarray(frames.energy, np.float64), np.asarray(frames.forces[:, : shape[1]], np.float64)


def _trajectory(images: Sequence[Atoms], interval: float | None, energy: np.ndarray, forces: np.ndarray) -> Trajectory:
    from ase.units import fs

    first, count = images[0], len(images)
    info = [a.info for a in images]
    known = [k for k in info[0] if k not in OWN_COLUMNS and all(_number(i.get(k)) for i in info)]
    observables = {k: np.array([float(i[k]) for i in info]) for k in known}
    if np.isfinite(energy).any():
        observables["potential_energy"] = energy
    blank = np.full(len(first), np.nan)
    names = {k for a in images for k, v in a.arrays.items() if k not in OF_ASE and v.ndim == 1 and v.dtype.kind == "f"}
    moving = all(a.has("momenta") for a in images)
    velocities = [a.get_velocities() * fs if moving else np.full((len(first), 3), np.nan) for a in images]
    times = [float(i["time_fs"]) if _number(i.get("time_fs")) else np.nan for i in info]
    return Trajectory(
        first.numbers.copy(),
        first.get_masses(),
        np.array([int(i["step"]) if _number(i.get("step")) else k for k, i in enumerate(info)]),
        np.array(times) if interval is None else interval * np.arange(count),
        np.array([a.positions for a in images]),
        np.array(velocities),
        forces,
        observables,
        {name.removeprefix(ATOM): np.array([a.arrays.get(name, blank) for a in images]) for name in sorted(names)},
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
