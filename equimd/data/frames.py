"""Frames: the checked, columnar block of structures that every part of the package exchanges.

The field's names, said once, for the whole package:

- ``positions`` (B, n, 3) Angstrom; ``numbers`` (B, n), 0 marks a padded slot, padding stands at the end;
- ``energy`` (B,) eV, total, float64; ``forces`` (B, n, 3) eV/Angstrom; NaN where a frame has no label;
- ``cell`` (B, 3, 3) Angstrom, rows are lattice vectors, zeros for open molecules; ``pbc`` (B, 3) bool;
- ``charge`` (B,) total charge in e; ``spin`` (B,) multiplicity 2S+1. 0 in ``spin`` means "not stated", and so does
  a charge of 0 where ``charge_stated`` (B,) is False;
- ``weight`` (B,) how much the frame counts in a training loss beside the others, 1 unless its file says otherwise.

NaN in all components of the force on an atom of a frame with forces means that this atom has no label: a mask.

B frames, n atoms in the largest of them. Arrays are NumPy, positions/energy/forces float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from equimd.chemistry import refuse_dummies
from equimd.data.content import content_hashes
from equimd.data.memory import free_memory
from equimd.data.state import contradiction, read_state, whole_numbers
from equimd.errors import DataError
from equimd.shown import Shown, span

if TYPE_CHECKING:
    from ase import Atoms


#: Bytes of a padded atom in the arrays of a block and those it is made from.
_ATOM_BYTES = 150
PADDED = ("numbers", "positions", "forces")  # fields with a row an atom


def padded_shape(sizes: Sequence[int], where: str) -> tuple[int, int]:
    """(frames, atoms of the largest), the shape of a block of frames of these ``sizes``.

    Raises:
        DataError: it would not fit into memory: one huge frame among many.
    """
    shape = (len(sizes), max(sizes, default=0))
    wanted = shape[0] * shape[1] * _ATOM_BYTES
    if wanted > free_memory():
        raise DataError(
            f"{shape[0]:,} frames padded to {shape[1]:,} atoms take {wanted / 1e9:.0f} GB", where=where,
            hint="keep frames of very different sizes in different files, or convert parts to .h5 stores",
        )  # fmt: skip
    return shape


def _blank(count: int, width: int) -> Frames:
    """Frames to be written over."""
    shape = (count, width, 3)
    return Frames(
        np.zeros(shape[:2], np.uint8),
        np.zeros(shape),
        np.zeros(count),
        np.zeros(shape),
        np.zeros((count, 3, 3)),
        np.zeros((count, 3), np.bool_),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.bool_),
        np.zeros(count),
    )


@dataclass(frozen=True, repr=False)
class Frames(Shown):
    """A block of B structures, padded to the largest of them. Shapes and units: module docstring."""

    numbers: np.ndarray
    positions: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    charge: np.ndarray
    spin: np.ndarray
    charge_stated: np.ndarray
    weight: np.ndarray

    @classmethod
    def build(
        cls,
        numbers: np.ndarray,
        positions: np.ndarray,
        energy: np.ndarray | None = None,
        forces: np.ndarray | None = None,
        cell: np.ndarray | None = None,
        pbc: np.ndarray | None = None,
        charge: np.ndarray | None = None,
        spin: np.ndarray | None = None,
        charge_stated: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        *,
        where: str = "frames",
    ) -> Frames:
        """Make a block from arrays that may lack labels; ``numbers`` may be (n,) for one composition.

        Charges that are given count as stated, unless ``charge_stated`` says otherwise.

        Raises:
            DataError: shapes that do not fit, positions or cells that are not finite, padding that is not at the end,
                charges that are no whole numbers, or weights that are not positive.
        """
        positions = np.array(positions, dtype=np.float64)
        if positions.ndim != 3 or positions.shape[2] != 3:
            raise DataError(f"positions have shape {positions.shape}, expected (frames, atoms, 3)", where=where)
        n_frames, n_atoms = positions.shape[:2]
        numbers = np.asarray(numbers)
        if numbers.ndim == 1:
            numbers = np.broadcast_to(numbers, (n_frames, len(numbers)))
        if numbers.shape != (n_frames, n_atoms):
            raise DataError(
                f"atomic numbers have shape {numbers.shape}, expected {(n_frames, n_atoms)} as the positions",
                where=where,
            )
        if not np.issubdtype(numbers.dtype, np.integer) and not np.array_equal(numbers, numbers.astype(np.int64)):
            raise DataError("atomic numbers are not whole numbers", where=where)
        if numbers.size and (numbers.min() < 0 or numbers.max() > 118):
            raise DataError(f"atomic numbers outside 1..118: {numbers.min()}..{numbers.max()}", where=where)
        numbers = np.array(numbers, dtype=np.uint8)
        real = numbers > 0
        if n_frames and not np.array_equal(real, np.arange(n_atoms)[None] < real.sum(1)[:, None]):
            raise DataError("padded atoms (atomic number 0) must stand after the real ones", where=where)
        if n_frames and not real.any(1).all():
            raise DataError("frame without atoms", where=f"{where}, frame {int(np.argmin(real.any(1)))}")
        positions[~real] = 0.0
        bad = ~np.isfinite(positions).all((1, 2))
        if bad.any():
            raise DataError("positions are NaN or infinite", where=f"{where}, frame {int(np.argmax(bad))}")
        if energy is None:
            energy = np.full(n_frames, np.nan)
        energy = np.array(energy, dtype=np.float64).reshape(-1)
        if energy.shape != (n_frames,):
            raise DataError(f"{energy.size} energies for {n_frames} frames", where=where)
        if forces is None:
            forces = np.full((n_frames, n_atoms, 3), np.nan)
        forces = np.array(forces, dtype=np.float64)
        if forces.shape != positions.shape:
            raise DataError(f"forces of shape {forces.shape}, expected {positions.shape} as the positions", where=where)
        missing = np.isnan(forces).all((1, 2)) if n_frames else np.zeros(0, bool)
        forces[~real & ~missing[:, None]] = 0.0

        def fill(value: np.ndarray | None, default: float, shape: tuple[int, ...], dtype: type) -> np.ndarray:
            array: np.ndarray = np.full(shape, default, dtype) if value is None else np.array(value, dtype=dtype)
            if array.shape != shape:
                raise DataError(f"an array has shape {array.shape}, expected {shape}", where=where)
            return array

        if charge_stated is None:
            charge_stated = np.full(n_frames, charge is not None)
        block = cls(
            numbers,
            positions,
            energy,
            forces,
            fill(cell, 0.0, (n_frames, 3, 3), np.float64),
            fill(pbc, 0, (n_frames, 3), np.bool_),
            fill(None if charge is None else whole_numbers("charge", charge, where), 0, (n_frames,), np.int64),
            fill(None if spin is None else whole_numbers("spin", spin, where), 0, (n_frames,), np.int64),
            fill(charge_stated, 0, (n_frames,), np.bool_),
            fill(weight, 1.0, (n_frames,), np.float64),
        )
        block._check_cells_and_weights(where)
        return block

    def _check_cells_and_weights(self, where: str) -> None:
        bad = ~np.isfinite(self.cell).all((1, 2))
        if bad.any():
            raise DataError("the cell is NaN or infinite", where=f"{where}, frame {int(np.argmax(bad))}")
        bad = ~(np.isfinite(self.weight) & (self.weight >= 0))
        if bad.any():
            k = int(np.argmax(bad))
            raise DataError(f"the weight is {self.weight[k]}, expected 0 or more", where=f"{where}, frame {k}")

    def __len__(self) -> int:
        return len(self.numbers)

    def _shown(self) -> Mapping[str, str]:
        labels = [name for name in ("energy", "forces") if len(self) and getattr(self, f"has_{name}").all()]
        return {"frames": f"{len(self):,}", "atoms": span(self.n_atoms), "labels": ", ".join(labels) or "not all"}

    @property
    def n_atoms(self) -> np.ndarray:
        """(B,) number of real atoms of each frame."""
        return (self.numbers > 0).sum(1)

    @property
    def has_energy(self) -> np.ndarray:
        """(B,) whether the frame has a finite energy."""
        return np.isfinite(self.energy)

    @property
    def has_forces(self) -> np.ndarray:
        """(B,) whether every real atom of the frame has finite forces."""
        finite = np.isfinite(self.forces) | (self.numbers == 0)[..., None]
        return np.asarray(finite.all((1, 2)))

    @property
    def force_mask(self) -> np.ndarray:
        """(B, n) which real atoms have a force label."""
        return np.isfinite(self.forces).all(-1) & (self.numbers > 0)

    @property
    def charge_spin(self) -> np.ndarray:
        """(B, 2) the electronic state of each frame: total charge, multiplicity."""
        return np.stack([self.charge, self.spin], 1)

    @property
    def states(self) -> set[tuple[int | None, int]]:
        """The electronic states that occur: charge, None where it is not stated, and multiplicity."""
        rows = np.stack([self.charge, self.charge_stated, self.spin], 1)
        rows = rows[:1] if (rows == rows[:1]).all() else np.unique(rows, axis=0)
        return {(q if stated or q else None, m) for q, stated, m in rows.tolist()}

    def with_state(self, charge: int | None, spin: int | None, *, where: str) -> Frames:
        """These frames in a state that is told for all; None leaves it open.

        Raises:
            DataError: a frame states another one.
        """
        told = self.charge_stated | (self.charge != 0)
        for name, value, own, has in (("charge", charge, self.charge, told), ("spin", spin, self.spin, self.spin != 0)):
            wrong = has & (own != value)
            if value is not None and wrong.any():
                k = int(np.argmax(wrong))
                raise contradiction(name, value, int(own[k]), f"{where}, frame {k}")
        return replace(
            self,
            charge=self.charge if charge is None else np.full_like(self.charge, charge),
            charge_stated=self.charge_stated if charge is None else np.ones_like(self.charge_stated),
            spin=self.spin if spin is None else np.full_like(self.spin, spin),
        )

    def at(self, positions: np.ndarray) -> Frames:
        """The structure of the first frame at other positions (K, n, 3), without labels."""
        rows = [0] * len(positions)
        state = self.cell[rows], self.pbc[rows], self.charge[rows], self.spin[rows]
        return Frames.build(self.numbers[rows], positions, None, None, *state)

    def take(self, rows: np.ndarray | Sequence[int] | slice) -> Frames:
        """The frames ``rows``, in that order, padded no more than they need."""
        numbers = self.numbers[rows]
        width = int(np.count_nonzero(numbers.any(0)))  # padding stands at the end
        return Frames(
            numbers[:, :width],
            self.positions[rows][:, :width],
            self.energy[rows],
            self.forces[rows][:, :width],
            self.cell[rows],
            self.pbc[rows],
            self.charge[rows],
            self.spin[rows],
            self.charge_stated[rows],
            self.weight[rows],
        )

    def content_hashes(self) -> list[str]:
        """A hash of each frame's geometry (elements, positions to 1e-5 A, cell, state), for leakage and duplicates.

        Labels are left out: the same geometry with another label is still the same frame.
        """
        return list(content_hashes(self))

    @staticmethod
    def concatenate(blocks: Sequence[Frames]) -> Frames:
        """One block of all frames of ``blocks``, in order."""
        ends = np.cumsum([0, *map(len, blocks)])
        return Frames.placed(int(ends[-1]), ((slice(a, a + len(b)), b) for a, b in zip(ends, blocks, strict=False)))

    @staticmethod
    def placed(count: int, parts: Iterable[tuple[np.ndarray | slice, Frames]]) -> Frames:
        """One block of ``count`` frames, from the rows of it that each part fills; a part is let go before the next one
        is taken, so that little more than the block itself is in memory."""
        joined = _blank(count, 0)
        for rows, part in parts:
            width = part.numbers.shape[1]
            if width > joined.numbers.shape[1]:
                wider = _blank(count, width)
                wider._put(slice(None), joined)
                joined = wider
            joined._put(rows, part)
        return joined

    def _put(self, rows: np.ndarray | slice, part: Frames) -> None:
        """Write frames of as many atoms or fewer over some of these."""
        width = part.numbers.shape[1]
        for f in fields(Frames):
            own, value = getattr(self, f.name), getattr(part, f.name)
            if f.name not in PADDED:
                own[rows] = value
                continue
            own[rows, :width] = value
            if width < own.shape[1]:
                bare = np.isnan(value).all((1, 2))[:, None, None] if f.name == "forces" else False
                own[rows, width:] = np.where(bare, np.nan, 0)  # a frame without forces stays without

    @classmethod
    def from_ase(cls, atoms: Sequence[Atoms], *, labels: bool = False, where: str = "structure") -> Frames:
        """A block from ASE ``Atoms``. With ``labels`` their stored energy and raw (unconstrained) forces are read.

        Charge and multiplicity come from ``atoms.info``, see :func:`equimd.data.state.read_state`.

        Raises:
            DataError: no structures, dummy atoms, positions or a cell that are not finite, a state that is none.
        """
        blocks = []
        for k, a in enumerate(atoms):
            energy = forces = None
            if labels and a.calc is not None:
                results = getattr(a.calc, "results", {})
                energy, forces = results.get("energy"), results.get("forces")
            place = f"{where}, frame {k}"
            refuse_dummies(a.numbers, place)
            state = read_state(a.info, where=place)
            blocks.append(
                cls.build(
                    a.numbers[None],
                    a.positions[None],
                    None if energy is None else np.array([energy]),
                    None if forces is None else np.asarray(forces)[None],
                    np.asarray(a.cell)[None],
                    np.asarray(a.pbc)[None],
                    np.array([state.charge]),
                    np.array([state.spin]),
                    np.array([state.charge_stated]),
                    where=place,
                )
            )
        if not blocks:
            raise DataError("no structures", where=where)
        return cls.concatenate(blocks)

    def to_ase(self) -> list[Atoms]:
        """ASE ``Atoms``, with the labels there are in a ``SinglePointCalculator``."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator

        out = []
        for k, n in enumerate(self.n_atoms):
            atoms = Atoms(self.numbers[k, :n], self.positions[k, :n], cell=self.cell[k], pbc=self.pbc[k])
            if self.charge[k] or self.charge_stated[k]:
                atoms.info["charge"] = int(self.charge[k])
            if self.spin[k]:
                atoms.info["spin"] = int(self.spin[k])
            labels: dict[str, float | np.ndarray] = {}
            if np.isfinite(self.energy[k]):
                labels["energy"] = float(self.energy[k])
            if np.isfinite(self.forces[k, :n]).all():
                labels["forces"] = self.forces[k, :n].copy()
            if labels:
                atoms.calc = SinglePointCalculator(atoms, **labels)
            out.append(atoms)
        return out
