"""``equimd.label``: energies and forces of given frames with GFN2-xTB or any ASE calculator."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from equimd.config import ReadingSettings
from equimd.data.convert import output_format, write_frames
from equimd.data.dataset import ArrayDataset, Dataset, DatasetInfo, stated, time_index
from equimd.data.frames import Frames
from equimd.data.given import GivenData, open_given
from equimd.errors import DataError
from equimd.files import check_output, locked, plain, replacing, sha256_of
from equimd.methods import Method, check_method, make_method
from equimd.notices import note, warn
from equimd.progress import Callback, counting
from equimd.shown import Shown
from equimd.tasks.keywords import settings_of, takes
from equimd.tasks.label.settings import LabelSettings

_BATCH = 100


@dataclass(frozen=True, repr=False)
class LabelResult(Shown):
    """Labelled frames in a file.

    Attributes:
        path: of the file. frames: how many.
        theory: the method in words.
        failed: rows left out because the method failed on them.
    """

    path: Path
    frames: int
    theory: str
    failed: tuple[int, ...]

    def dataset(self) -> Dataset:
        """The frames and their labels."""
        return open_given(self.path, ReadingSettings())

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd data label --json``."""
        return plain({"path": self.path, "n_frames": self.frames, "theory": self.theory, "failed": self.failed})

    def _shown(self) -> Mapping[str, str]:
        out = f", {len(self.failed)} left out" if self.failed else ""
        return {"path": str(self.path), "frames": f"{self.frames}{out}", "theory": self.theory}


@takes(LabelSettings.model_fields)
def label(
    data: GivenData,
    out: str | Path,
    *,
    settings: LabelSettings | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> LabelResult:
    """Label every frame of ``data`` and write frames and labels to ``out``; what ``equimd data label`` does.

    Charge and multiplicity of each frame are used; labels the data has are replaced. Finished batches wait in
    ``OUT.parts``, so that an interrupted run goes on where it stopped.

    Args:
        data: files, ``bundled:NAME``, ASE ``Atoms`` or a data set.
        out: NAME.h5 for equimd's store, NAME.xyz for extended XYZ.
        settings: an object of settings, beneath those given as keywords.
        overwrite: replace the file if it is there.
        progress: called with :class:`~equimd.progress.Progress`.

    Raises:
        DataError: no frames, the file is there, or the calculator fails on a frame (on all of them with
            ``keep_going``).
        ConfigError: no such calculator.
    """
    s, out = settings_of(LabelSettings, settings, options), Path(out)
    output_format(out)
    check_output(out, overwrite)
    data = stated(open_given(data), s.charge, s.spin)  # energies it may have are not used
    if data.info.units.length != "Angstrom":
        warn(f"positions were read in {data.info.units.length}: {data.info.units.note}")
    if not len(data):
        raise DataError("no frames to label", where=data.info.path)
    check_method(s.calculator)
    work = out.with_name(out.name + ".parts")
    with locked(work), counting(progress, "frames", "labelling") as tell:
        check_output(out, overwrite)  # another process may have ended meanwhile
        energies, forces, theory = _labels(data, s, work, tell)
        energy = np.concatenate(energies)
        good = np.flatnonzero(np.isfinite(energy))
        if not len(good):
            raise DataError(f"{s.calculator} failed on all {len(data)} frames", where=data.info.path)
        labelled = _attach(data, energies, forces, good)
        write_frames(out, labelled, theory=theory, source=data.info.path, extra={"calculator": s.calculator})
        shutil.rmtree(work)
    failed = tuple(int(k) for k in np.setdiff1d(np.arange(len(data)), good))
    note(f"{len(good)} frames labelled with {theory}")
    return LabelResult(out, len(good), theory, failed)


def _labels(
    data: Dataset, s: LabelSettings, work: Path, progress: Callable[[int, int], None] | None
) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    """Energies and forces of each batch, NaN where the calculator failed, and the method in words."""
    energies, forces, theory = [], [], ""
    for start in range(0, len(data), _BATCH):
        block = data.frames(np.arange(start, min(start + _BATCH, len(data))))
        path = work / f"{_key(block, s.calculator)}.npz"
        if not path.exists():
            _label_batch(block, _Methods(s.calculator), path, start, s.keep_going)
        with np.load(path, allow_pickle=False) as done:
            energies.append(done["energy"])
            forces.append(done["forces"])
            theory = str(done["theory"]) or theory
        if progress is not None:
            progress(min(start + _BATCH, len(data)), len(data))
    return energies, forces, theory


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
    with replacing(path) as temporary, open(temporary, "wb") as handle:
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
