"""Write frames to a file: equimd's store or extended XYZ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from equimd.data.dataset import Dataset, iterate_blocks, time_index
from equimd.data.frames import Frames
from equimd.errors import DataError
from equimd.files import replacing

_STORE = (".h5", ".hdf5")
_XYZ = (".xyz", ".extxyz")


def output_format(path: Path) -> str:
    """``store`` or ``extxyz``, by the ending of ``path``.

    Raises:
        DataError: another ending.
    """
    ending = path.suffix.lower()
    if ending in _STORE:
        return "store"
    if ending in _XYZ:
        return "extxyz"
    raise DataError(
        f"cannot write the format of ending '{ending}'",
        where=str(path),
        hint="a name ending in .h5 (equimd's store) or .xyz (extended XYZ)",
    )


def write_frames(
    path: Path,
    data: Dataset,
    *,
    theory: str = "",
    source: str = "",
    command: str = "",
    extra: Mapping[str, str | int | float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write all frames of ``data`` with their labels, trajectories and states, to the format its ending names.

    The file appears when it is complete. Extended XYZ is in eV and Angstrom and holds 17 digits of each energy and
    12 of positions and forces.

    Args:
        progress: told the frames written and their number.

    Raises:
        DataError: an unknown ending, or no frames.
        MachineError: the disk is full.
    """
    if output_format(path) == "store":
        from equimd.data.store import write_store

        write_store(
            path, _blocks(data, progress), theory=theory, source=source, command=command, extra=extra,
            compression="gzip", trajectory=data.trajectory, time=time_index(data),
            license=str(data.info.extra.get("license", "")), citation=str(data.info.extra.get("citation", "")),
        )  # fmt: skip
    else:
        _write_extxyz(path, data, progress)


def _blocks(data: Dataset, progress: Callable[[int, int], None] | None) -> Iterator[Frames]:
    done = 0
    for block in iterate_blocks(data):
        yield block
        done += len(block)
        if progress is not None:
            progress(done, len(data))


def _write_extxyz(path: Path, data: Dataset, progress: Callable[[int, int], None] | None) -> None:
    """Frames as extended XYZ: energy, forces, charge, spin, trajectory and time, where there are any."""
    if not len(data):
        raise DataError("no frames to write", where=str(path))
    trajectory, time = data.trajectory, time_index(data)
    several = bool(np.ptp(trajectory))
    row = 0
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for block in _blocks(data, progress):
            for k in range(len(block)):
                extra = {}
                if several:
                    extra["trajectory"] = int(trajectory[row])
                if time is not None:
                    extra["time_index"] = int(time[row])
                out.write(_xyz_frame(block.take([k]), extra))
                row += 1


def _xyz_frame(frame: Frames, extra: Mapping[str, int]) -> str:
    """One frame, with more digits than ASE's writer keeps."""
    from ase.data import chemical_symbols

    keep = frame.force_mask[0]
    labelled, masked = bool(keep.any()), bool(keep.any() and not keep.all())
    fields: dict[str, int | float] = dict(extra)
    columns = "species:S:1:pos:R:3" + (":forces:R:3" if labelled else "") + (":forces_mask:L:1" if masked else "")
    header = [f"Properties={columns}"]
    if frame.has_energy[0]:
        header.append(f"energy={float(frame.energy[0])!r}")
    if frame.charge[0] or frame.charge_stated[0]:
        fields["charge"] = int(frame.charge[0])
    if frame.spin[0]:
        fields["spin"] = int(frame.spin[0])
    if frame.weight[0] != 1:
        fields["weight"] = float(frame.weight[0])
    header += [f"{key}={value}" for key, value in fields.items()]
    if frame.pbc.any() or frame.cell.any():
        header.insert(0, 'Lattice="' + " ".join(f"{v:.12g}" for v in frame.cell[0].ravel()) + '"')
    header.append('pbc="' + " ".join("T" if p else "F" for p in frame.pbc[0]) + '"')
    lines = [str(frame.numbers.shape[1]), " ".join(header)]
    for z, r, f, kept in zip(frame.numbers[0], frame.positions[0], np.nan_to_num(frame.forces[0]), keep, strict=True):
        values = [*r, *f] if labelled else [*r]
        mask = f" {'T' if kept else 'F'}" if masked else ""
        lines.append(f"{chemical_symbols[z]:2s} " + " ".join(f"{v:18.12f}" for v in values) + mask)
    return "\n".join(lines) + "\n"
