"""What a reader hands over: frames in the file's own units, and what the file says about itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from equimd.data.dataset import ArrayDataset, DatasetInfo, Units
from equimd.data.frames import Frames
from equimd.data.readers.labels import LabelKeys
from equimd.data.unit_rule import Verdict, judge_units, mismatch_error
from equimd.units import (
    ENERGY_UNITS,
    LENGTH_UNITS,
    canonical_unit,
    energy_factor,
    force_factor,
    force_unit,
    length_factor,
)  # fmt: skip


@dataclass(frozen=True)
class ReadOptions:
    """What a user says about data: which labels, which columns, which units; see :func:`equimd.data.open_dataset`."""

    labels: str = "revised"
    energy_unit: str | None = None
    length_unit: str | None = None
    force_unit: str | None = None
    energy_key: str | None = None
    forces_key: str | None = None
    mask_fixed: bool = False
    check_units: bool = True

    @property
    def keys(self) -> LabelKeys:
        """The columns that are asked for."""
        return LabelKeys(self.energy_key, self.forces_key, self.labels == "none")


@dataclass
class Raw:
    """Frames in the units of their file.

    Attributes:
        block: the frames; energies, lengths and forces (energy/length) in the file's units.
        format: short name of the format, such as ``npz-sgdml``.
        energy_unit, length_unit: what the file or its format definition states, None where nothing does.
        force_unit: of the forces, where the file states one for them alone.
        convention: the format is eV and Angstrom by convention, though files break it; checked, not inferred.
        trajectory, time_index: per frame, where the file knows them.
    """

    block: Frames
    format: str
    path: str
    energy_unit: str | None = None
    length_unit: str | None = None
    force_unit: str | None = None
    convention: bool = False
    trajectory: np.ndarray | None = None
    time_index: np.ndarray | None = None
    extra: dict[str, object] = field(default_factory=dict)


def resolve_units(
    sample: Frames,
    *,
    path: str,
    stated: tuple[str | None, str | None],
    asked: tuple[str | None, str | None],
    convention: bool,
    check: bool,
) -> tuple[Units, dict[str, object]]:
    """The units of a file, from what the user says, what the file says, or the rule of :mod:`unit_rule`, in that order.

    Returns:
        the units, and ``{"units_problem": {...}}`` where the rule objects and ``check`` is off.

    Raises:
        UnitsError: the rule objects and ``check`` is on.
        ConfigError: an unknown unit name.
    """
    energy = canonical_unit(asked[0], ENERGY_UNITS) if asked[0] else None
    length = canonical_unit(asked[1], LENGTH_UNITS) if asked[1] else None
    if energy and length:
        return Units(energy, length, "stated", "stated by the user"), {}
    known_energy, known_length = energy or stated[0], length or stated[1]
    if known_energy and known_length:
        who = "the user and the file" if energy or length else "the file or its format"
        return Units(known_energy, known_length, "stated", f"stated by {who}"), {}
    verdict = judge_units(sample, energy=known_energy, length=known_length, convention=convention)
    if verdict.problem is None:
        return Units(verdict.energy, verdict.length, verdict.source, verdict.note), {}
    if check:
        raise mismatch_error(verdict, path)
    return _unknown(verdict)


def _unknown(verdict: Verdict) -> tuple[Units, dict[str, object]]:
    """Units recorded as unknown: numbers are passed on as they stand unless a unit was stated."""
    problem = {"code": verdict.problem, "message": verdict.note, "probable_energy_unit": verdict.probable_energy,
               "probable_length_unit": verdict.probable_length}  # fmt: skip
    return Units(verdict.energy, verdict.length, "unknown", verdict.note), {"units_problem": problem}


def to_dataset(raw: Raw, options: ReadOptions | None = None) -> ArrayDataset:
    """The frames of ``raw`` in eV and Angstrom.

    Raises:
        UnitsError: see :func:`resolve_units`.
    """
    options = options or ReadOptions()
    asked = options.force_unit or raw.force_unit
    force = None if asked is None else "/".join(force_unit(asked))
    units, problem = resolve_units(
        raw.block if force is None else replace(raw.block, forces=np.full_like(raw.block.forces, np.nan)),
        path=raw.path,
        stated=(raw.energy_unit, raw.length_unit),
        asked=(options.energy_unit, options.length_unit),
        convention=raw.convention,
        check=options.check_units,
    )
    if force is not None and force != units.forces:
        units = replace(units, force=force)
    info = DatasetInfo(raw.path, raw.format, units, {**raw.extra, **problem})
    return ArrayDataset(scale(raw.block, units), info, raw.trajectory, raw.time_index)


def scale(block: Frames, units: Units) -> Frames:
    """``block``, given in ``units``, in eV and Angstrom."""
    e, length = energy_factor(units.energy), length_factor(units.length)
    f = force_factor(units.forces)
    if e == 1.0 and length == 1.0 and f == 1.0:
        return block
    return replace(
        block,
        positions=block.positions * length,
        cell=block.cell * length,
        energy=block.energy * e,
        forces=block.forces * f,
    )
