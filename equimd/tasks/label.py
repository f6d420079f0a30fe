"""Compute energies and forces of given frames with GFN2-xTB or any ASE calculator."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from equimd.data.convert import output_format, write_frames
from equimd.data.dataset import ArrayDataset, Dataset, DatasetInfo, time_index
from equimd.data.frames import Frames
from equimd.errors import DataError
from equimd.files import replacing, sha256_of
from equimd.methods import Method, check_method, make_method

_BATCH = 100


@dataclass(frozen=True)
class Labelled:
    """What :func:`label` wrote; ``failed`` are the rows left out because the method failed on them."""

    path: Path
    frames: int
    theory: str
    failed: tuple[int, ...]


def label(
    data: Dataset,
    out: Path,
    *,
    calculator: str = "tblite",
    keep_going: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Labelled:
    """Label every frame of ``data`` and write frames and labels to ``out`` (.h5 or .xyz).

    Charge and multiplicity of each frame are used; labels the data has are replaced. Finished batches wait in
    ``OUT.parts``, so that an interrupted run goes on where it stopped.

    Args:
        calculator: ``tblite`` (GFN2-xTB), ``gfn1``, ``emt`` or ``module:Class`` of an ASE calculator.
        keep_going: leave out frames on which the calculator fails, instead of stopping at the first.

    Raises:
        DataError: no frames, or the calculator fails on one (on all of them with ``keep_going``).
        ConfigError: no such calculator.
    """
    output_format(out)
    if not len(data):
        raise DataError("no frames to label", where=data.info.path)
    check_method(calculator)
    work = out.with_name(out.name + ".parts")
    work.mkdir(parents=True, exist_ok=True)
    total, starts = len(data), range(0, len(data), _BATCH)
    methods = _Methods(calculator)
    energies, forces, theory = [], [], ""
    for start in starts:
        block = data.frames(np.arange(start, min(start + _BATCH, total)))
        path = work / f"{_key(block, calculator)}.npz"
        if not path.exists():
            _label_batch(block, methods, path, start, keep_going)
        with np.load(path, allow_pickle=False) as done:
            energies.append(done["energy"])
            forces.append(done["forces"])
            theory = str(done["theory"]) or theory
        if progress is not None:
            progress(min(start + _BATCH, total), total)
    energy = np.concatenate(energies)
    good = np.flatnonzero(np.isfinite(energy))
    if not len(good):
        raise DataError(f"{calculator} failed on all {total} frames", where=data.info.path)
    labelled = _attach(data, energies, forces, good)
    source = data.info.path
    write_frames(out, labelled, theory=theory, source=source, extra={"calculator": calculator})
    shutil.rmtree(work)
    failed = np.setdiff1d(np.arange(total), good)
    return Labelled(out, len(good), theory, tuple(int(k) for k in failed))


class _Methods:
    """The method, made anew when elements, cell or electronic state change."""

    def __init__(self, calculator: str) -> None:
        self._calculator = calculator
        self._key: bytes | None = None
        self._method: Method | None = None

    def of(self, frame: Frames) -> Method:
        parts = (frame.numbers, frame.cell, frame.pbc, frame.charge, frame.spin)
        key = b"|".join(np.ascontiguousarray(a).tobytes() for a in parts)
        if self._method is None or key != self._key:
            atoms = frame.to_ase()[0]
            atoms.calc = None
            self._method = make_method(self._calculator, atoms, int(frame.charge[0]), int(frame.spin[0]))
            self._key = key
        return self._method


def _key(block: Frames, calculator: str) -> str:
    return sha256_of(["|".join(block.content_hashes()), calculator])[:16]


def _label_batch(block: Frames, methods: _Methods, path: Path, start: int, keep_going: bool) -> None:
    energy = np.full(len(block), np.nan)
    forces = np.full(block.positions.shape, np.nan)
    theory = ""
    for k in range(len(block)):
        frame = block.take([k])
        try:
            method = methods.of(frame)
            energy[k], forces[k, : frame.positions.shape[1]] = method.label(frame.positions[0])
        except DataError as error:
            if not keep_going:
                hint = "leave such frames out with --keep-going"
                raise DataError(error.what, where=f"frame {start + k}", hint=hint) from error
            energy[k] = np.nan
            continue
        theory = method.theory
    with replacing(path, alone=True) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, energy=energy, forces=forces, theory=np.array(theory))


def _attach(data: Dataset, energies: list[np.ndarray], forces: list[np.ndarray], good: np.ndarray) -> ArrayDataset:
    blocks, start = [], 0
    for e, f in zip(energies, forces, strict=True):
        b = data.frames(np.arange(start, start + len(e)))
        f = np.nan_to_num(f)  # padded slots; failed frames are dropped below
        blocks.append(replace(b, energy=e, forces=f))
        start += len(e)
    time = time_index(data)
    return ArrayDataset(
        Frames.concatenate(blocks).take(good),
        DatasetInfo(data.info.path, "labelled"),
        data.trajectory[good],
        None if time is None else time[good],
    )
