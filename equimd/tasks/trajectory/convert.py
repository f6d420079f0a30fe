"""Trajectories in the formats of other programs, by the ending of the file's name."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.paths import selection
from equimd.errors import ConfigError, DataError
from equimd.files import check_output, plain, replacing
from equimd.md.recorded import Recorded
from equimd.md.structures import ATOM, BLOCK, as_atoms, write_extxyz
from equimd.tasks.trajectory.source import Source, open_source
from equimd.units import KJ_PER_MOL

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.data.system import System

MEV = 1000.0
LARGEST = 999.0  # of a B-factor in a PDB file
FS_PER_PS = 1000.0

#: Writes the frames of a replica to a path, in the format of an ending such as ``.dcd``.
Writer = Callable[[Source, Recorded, Path, str], None]


@dataclass(frozen=True)
class Converted:
    """Files that were written, one a replica, and how many frames they hold."""

    paths: tuple[Path, ...]
    n_frames: int

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd traj convert --json``."""
        return plain({"paths": self.paths, "n_frames": self.n_frames})


def convert(
    trajectory: str | Path, out: str | Path, *, replica: int | None = None, overwrite: bool = False
) -> Converted:
    """Write a trajectory in the format that the ending of ``out`` names, a file a replica.

    Args:
        trajectory: folder of a simulation, or a file; some of the frames as in ``md@::10``.
        out: of one replica; of several, ``out-000``, ``out-001`` ... before the ending.
        replica: of a simulation, one of its replicas alone.
        overwrite: replace files that are there.

    Raises:
        ConfigError: an ending that is not known, or a format that needs MDAnalysis where that is not installed.
        DataError: no frames, a damaged file, or an output that is there.
    """
    out = Path(out)
    ending = _known(out)
    source = open_source(trajectory, replica)
    paths = _paths(out, source)
    for path in paths.values():
        check_output(path, overwrite, option="OUT")
        if path.exists() and path.samefile(_path(trajectory)):
            raise DataError("is what is read", where=str(path), hint="another OUT")
    for number, path in paths.items():
        with replacing(path) as temporary:
            FORMATS[ending](source, source.runs[number], temporary, ending)
    return Converted(tuple(paths.values()), sum(len(run) for run in source.runs.values()))


def _path(given: str | Path) -> Path:
    return Path(selection(given)[0])


def _paths(out: Path, source: Source) -> dict[int, Path]:
    if len(source.runs) == 1:
        return dict.fromkeys(source.runs, out)
    return {number: out.with_name(f"{out.stem}-{number:03d}{out.suffix}") for number in source.runs}


def _known(out: Path) -> str:
    ending = out.suffix.lower()
    if ending not in FORMATS:
        listed = ", ".join(FORMATS)
        raise ConfigError(f"cannot write the format of ending '{ending}'", where=str(out), hint=f"one of {listed}")
    if FORMATS[ending] is _by_mdanalysis:
        try:
            import MDAnalysis  # noqa: F401
        except ImportError:
            hint = "pip install 'equimd[traj]' (MDAnalysis), or another ending: .extxyz, .pdb, .traj"
            raise ConfigError(f"{ending} is written by MDAnalysis, which is not installed", hint=hint) from None
    return ending


def _extxyz(source: Source, run: Recorded, path: Path, ending: str) -> None:
    write_extxyz(run, source.system, path, source.state)


def _structures(source: Source, run: Recorded) -> Iterator[Atoms]:
    for part in run.blocks(size=BLOCK):
        yield from as_atoms(part, source.system, source.state)


def _ase(source: Source, run: Recorded, path: Path, ending: str) -> None:
    """ASE's own: energies, forces, momenta, constraints and ``info``."""
    from ase.io.trajectory import Trajectory as AseTrajectory

    with AseTrajectory(str(path), "w") as file:
        for atoms in _structures(source, run):
            file.write(atoms)


def _pdb(source: Source, run: Recorded, path: Path, ending: str) -> None:
    """A model a frame; the force sigma of each atom in meV/Angstrom as its B-factor, 0 where it is not known."""
    from ase.io import write

    cell, rotation = _standard(source.system)
    with path.open("w") as file:
        for number, atoms in enumerate(_structures(source, run), 1):
            if cell is not None and rotation is not None:
                atoms.set_cell(cell)
                atoms.positions = atoms.positions @ rotation
            sigma = atoms.arrays.get(ATOM + "force_sigma", np.zeros(len(atoms)))
            atoms.set_array("bfactor", np.clip(MEV * sigma, 0, LARGEST))
            text = io.StringIO()
            write(text, atoms, format="proteindatabank")
            file.write(text.getvalue().replace("MODEL     1\n", f"MODEL     {number:>4}\n", 1))


def _standard(system: System) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The cell as lengths and angles tell it, and how positions are turned into it; None of open molecules."""
    if system.lattice is None or system.cell is None:
        return None, None
    return system.lattice.standard(system.cell.cpu().numpy())


def _by_mdanalysis(source: Source, run: Recorded, path: Path, ending: str) -> None:
    """DCD, XTC and TRR: positions, cell and times; TRR also velocities and forces."""
    from MDAnalysis.coordinates.core import get_writer_for

    kind = ending[1:].upper()
    steps, times = run.columns.step, run.columns.time / FS_PER_PS
    options: dict[str, Any] = {"n_atoms": source.system.n_atoms}
    if kind == "DCD":  # has no times, but the first step, and how many steps of which length there are between frames
        known = len(run) > 1 and bool(np.isfinite(times).all())
        options |= {"dt": float(times[1] - times[0]) if known else 1.0, "istart": int(steps[0]) if known else 0,
                    "nsavc": int(steps[1] - steps[0]) if known else 1}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what the format has no place for
        with get_writer_for(str(path), format=kind)(str(path), **options) as writer:
            for universe in _universes(source.system, run):
                writer.write(universe)


def _universes(system: System, run: Recorded) -> Iterator[Any]:
    """One of MDAnalysis, at each frame in turn; in its units, Angstrom, ps and kJ/mol."""
    import MDAnalysis
    from MDAnalysis.lib.mdamath import triclinic_box

    cell, rotation = _standard(system)
    turn = np.eye(3) if rotation is None else rotation
    universe = MDAnalysis.Universe.empty(system.n_atoms, trajectory=True, velocities=True, forces=True)
    frame = universe.trajectory.ts
    frame.dimensions = None if cell is None else triclinic_box(*cell)
    number = 0
    for part in run.blocks(size=BLOCK):
        for k in range(len(part)):
            frame.frame, frame.time, frame.data["step"] = number, float(part.time[k]) / FS_PER_PS, int(part.step[k])
            frame.positions = part.positions[k] @ turn
            frame.has_velocities = bool(np.isfinite(part.velocities[k]).all())
            if frame.has_velocities:
                frame.velocities = FS_PER_PS * part.velocities[k] @ turn
            frame.has_forces = bool(np.isfinite(part.forces[k]).all())
            if frame.has_forces:
                frame.forces = part.forces[k] @ turn / KJ_PER_MOL
            number += 1
            yield universe


#: How each ending is written.
FORMATS: dict[str, Writer] = {
    ".extxyz": _extxyz,
    ".xyz": _extxyz,
    ".pdb": _pdb,
    ".traj": _ase,
    ".dcd": _by_mdanalysis,
    ".xtc": _by_mdanalysis,
    ".trr": _by_mdanalysis,
}
