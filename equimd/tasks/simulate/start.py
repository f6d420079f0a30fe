"""Where a simulation starts: elements, masses, cell, positions and velocities, kept bit-exactly with the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from equimd.data.given import GivenStructures, structures_of
from equimd.data.system import System
from equimd.errors import DataError
from equimd.files import load_tensors, save_tensors, understood
from equimd.guard.limits import Limits
from equimd.md.state import maxwell_boltzmann, remove_momentum
from equimd.shown import Shown

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.calculators import LoadedModel

START_FILE, KIND = "start.safetensors", "md-start"
MAX_FORCE, MAX_RELAX_STEPS = 0.01, 1000  # eV/Angstrom; of the relaxation
MOVES = 1e-9  # total momentum over the momenta of the atoms: less is rounding


@dataclass(frozen=True, repr=False)
class Start(Shown):
    """R replicas before their first step.

    Attributes:
        numbers, masses: (n,); ``cell``: (3, 3), zeros for an open molecule; ``pbc``: three flags.
        fixed: (n,) bool, atoms that never move; None where all do.
        positions: (R, n, 3) Angstrom; ``velocities``: the same in Angstrom/fs, or None if they are still to be drawn.
        charge, spin: of the structure, spin 0 where not stated; charge_stated: whether a charge is.
        bonded: (n, 3), where bonds are not to be read from the first of the positions.
    """

    numbers: Tensor
    masses: Tensor
    cell: Tensor
    pbc: tuple[bool, bool, bool]
    positions: Tensor
    velocities: Tensor | None
    charge: int
    spin: int
    charge_stated: bool = False
    fixed: Tensor | None = None
    bonded: Tensor | None = None

    @property
    def state(self) -> dict[str, int]:
        """Charge and multiplicity as far as they are stated, as in the ``info`` of ASE's Atoms."""
        charge = {"charge": self.charge} if self.charge or self.charge_stated else {}
        return {**charge, "spin": self.spin} if self.spin else charge

    @property
    def reference(self) -> Tensor:
        """(n, 3): the geometry that bonds are read from."""
        return self.positions[0] if self.bonded is None else self.bonded

    def system(self, device: str | torch.device = "cpu") -> System:
        """What the integrators need of it."""
        numbers, masses = self.numbers.numpy(), self.masses.numpy()
        cell = self.cell.numpy() if any(self.pbc) else None
        fixed = None if self.fixed is None else self.fixed.numpy()
        return System.build(numbers, masses=masses, cell=cell, pbc=self.pbc, fixed=fixed, device=device)

    def atoms(self) -> Atoms:
        """The first replica."""
        from ase import Atoms

        cell = self.cell.numpy() if any(self.pbc) else None
        return Atoms(self.numbers.numpy(), self.positions[0].numpy(), cell=cell, pbc=self.pbc, info=self.state)

    def save(self, folder: Path, meta: dict[str, Any]) -> None:
        """Write it, with what was decided for the run."""
        names = ("numbers", "masses", "cell", "positions", "velocities", "fixed", "bonded")
        tensors = {k: v for k in names if (v := getattr(self, k)) is not None}
        plain = {k: getattr(self, k) for k in ("charge", "spin", "charge_stated")} | {"pbc": list(self.pbc)}
        save_tensors(folder / START_FILE, tensors, {"start": plain, **meta}, KIND)

    @classmethod
    def load(cls, folder: Path) -> tuple[Start, dict[str, Any]]:
        """Undo :meth:`save`.

        Raises:
            RunError: missing or damaged.
        """
        tensors, meta = load_tensors(folder / START_FILE, KIND)
        with understood(folder / START_FILE):
            began = meta["identity"]
            int(began["threads"]), began["model_sha256"], began["calibration_sha256"]
            np.array([meta["start"]["charge"], meta["start"]["spin"]]).astype(np.int32, casting="same_kind")
            plain: dict[str, Any] = {**meta["start"], "pbc": tuple(meta["start"]["pbc"])}
            tensors.setdefault("velocities", None)  # type: ignore[arg-type]
            found = cls(**{**tensors, **plain})
            found.system()  # shapes belong together
            return found, meta


def read_start(
    given: GivenStructures, replicas: int, *, charge: int | None = None, spin: int | None = None
) -> tuple[Start, list[Atoms]]:
    """The structures of a file, or those given: one for all replicas, or one for each. Returns the start and them.

    Velocities are taken where there are momenta. ``charge`` and ``spin`` are those of structures that state none.

    Raises:
        DataError: not readable, another number of structures, structures that differ in more than their geometry,
            overlapping atoms, or constraints other than of fixed atoms.
    """
    from equimd.data.frames import Frames

    structures = structures_of(given, charge=charge, spin=spin)
    path = given if isinstance(given, str) else "start geometry"
    if len(structures) not in (1, replicas):
        hint = f"--replicas {len(structures)} starts one from each; or a file with a single structure"
        raise DataError(f"holds {len(structures)} structures for {replicas} replicas", where=path, hint=hint)
    first = structures[0]
    fixed = held_fixed(first, path)
    for k, a in enumerate(structures):
        alike = np.array_equal(a.numbers, first.numbers) and np.array_equal(a.pbc, first.pbc)
        if not (alike and np.allclose(a.cell.array, first.cell.array)):
            raise DataError("is of another molecule, atom order or cell than the first", where=f"{path}, structure {k}")
        if not np.array_equal(held_fixed(a, f"{path}, structure {k}"), fixed):
            raise DataError("holds other atoms fixed than the first", where=f"{path}, structure {k}")
    frames = Frames.from_ase(structures, where=path)
    if len(frames.states) > 1:
        raise DataError("the structures are of different charge or multiplicity", where=path)
    flags = [bool(p) for p in first.pbc]
    start = Start(
        torch.tensor(first.numbers, dtype=torch.int64),
        torch.tensor(first.get_masses(), dtype=torch.float64),
        torch.tensor(first.cell.array, dtype=torch.float64),
        (flags[0], flags[1], flags[2]),
        _per_replica([a.positions for a in structures], replicas),
        _velocities(structures, replicas),
        int(frames.charge[0]),
        int(frames.spin[0]),
        bool(frames.charge_stated[0]),
        fixed=torch.from_numpy(fixed) if fixed.any() else None,
    )
    for x in start.positions[: len(structures)]:
        Limits.from_reference(start.system(), x)  # refuses overlapping atoms
    return start, structures


def held_fixed(atoms: Atoms, where: str) -> np.ndarray:
    """(n,) bool, the atoms that constraints hold fixed.

    Raises:
        DataError: constraints of another kind.
    """
    from ase.constraints import FixAtoms, FixCartesian, FixScaled

    fixed = np.zeros(len(atoms), bool)
    for each in atoms.constraints:
        if not isinstance(each, FixAtoms) and not (isinstance(each, FixCartesian | FixScaled) and np.all(each.mask)):
            what = (
                f"{type(each).__name__}, a constraint that is not supported: whole atoms can be held fixed, no others"
            )
            raise DataError(what, where=where, hint="a move_mask of one column, or ASE's FixAtoms; or remove it")
        fixed[each.index] = True
    return fixed


def _per_replica(arrays: Sequence[np.ndarray], replicas: int) -> Tensor:
    stacked = torch.tensor(np.stack(arrays), dtype=torch.float64)
    return stacked.expand(replicas, -1, -1).clone()


def _velocities(structures: Sequence[Atoms], replicas: int) -> Tensor | None:
    from ase.units import fs

    if not all(a.has("momenta") for a in structures):
        return None
    return _per_replica([a.get_velocities() * fs for a in structures], replicas)


def relax(start: Start, structures: Sequence[Atoms], model: LoadedModel) -> tuple[Start, list[str]]:
    """Start from the nearest minima (BFGS on the model's forces). Returns the new start, and what to warn of."""
    from ase.constraints import FixAtoms
    from ase.optimize import BFGS

    relaxed, warnings = [], []
    for k, atoms in enumerate(structures):
        moved = atoms.copy()
        moved.set_constraint(None if start.fixed is None else FixAtoms(mask=start.fixed.numpy()))
        moved.calc = model.calculator()
        with BFGS(moved, logfile=None) as search:
            converged = search.run(fmax=MAX_FORCE, steps=MAX_RELAX_STEPS)
        name = f"structure {k}: " if len(structures) > 1 else ""
        if not np.isfinite(moved.positions).all():
            raise DataError(f"{name}the relaxation diverged", where="start geometry", hint="another start geometry")
        if not converged:
            force = float(np.linalg.norm(moved.get_forces(), axis=1).max())
            warnings.append(
                f"{name}not at a minimum after {MAX_RELAX_STEPS} steps of relaxation: the largest force is "
                f"{force:.3f} eV/A"
            )
        system = start.system()
        before, after = (Limits.from_reference(system, torch.tensor(a.positions)) for a in (atoms, moved))
        changed = {tuple(b) for b in before.bonds.tolist()} ^ {tuple(b) for b in after.bonds.tolist()}
        if changed:
            pairs = ", ".join(f"{i}-{j}" for i, j in sorted(changed))
            warnings.append(f"{name}the relaxation broke or formed bonds between atoms {pairs}")
        relaxed.append(moved.positions)
    return replace(start, positions=_per_replica(relaxed, len(start.positions))), warnings


def with_velocities(
    start: Start, temperature: float, *, seed: int, replicas: Sequence[int], bath: bool
) -> tuple[Start, str]:
    """Start with velocities: those of the file, else Maxwell-Boltzmann. Says which.

    Args:
        bath: whether what comes first exchanges momentum; else total and (open molecules) angular momentum are removed.
    """
    system = start.system()
    if start.velocities is None:
        v = maxwell_boltzmann(system, start.positions, temperature, seed=seed, replicas=replicas, bath=bath)
        return replace(start, velocities=v), f"velocities: drawn at {temperature:g} K, seed {seed}"
    if bath:
        return replace(start, velocities=system.free(start.velocities)), "velocities: from the file"
    still = remove_momentum(system, start.positions, start.velocities)
    largest = float(start.velocities.abs().max())
    removed = float((start.velocities - still).abs().max()) > MOVES * max(largest, 1e-12)
    note = ", without their total and angular momentum" if removed else ""
    return replace(start, velocities=still), "velocities: from the file" + note
