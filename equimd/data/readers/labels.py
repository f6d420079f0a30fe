"""Which columns of a file are the energies and the forces that are meant, of one method and one calculation.

A file may hold the labels of several methods (``energy`` and ``REF_forces`` and ``dft_energy``). Columns are sorted
into families by their names; energies of one family are never paired with forces of another unless that is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from equimd.errors import ConfigError, DataError

#: Names that say no more than what it is: one family, the standard one. The first is the standard name.
ENERGY_NAMES = ("energy", "energies", "e", "u0", "energy_u0", "total_energy", "totenergy", "tot_energy",
                "potential_energy", "epbe0+mbd", "free_energy")  # fmt: skip
FORCES_NAMES = ("forces", "force", "f", "totfor")
GRADIENT_NAMES = ("gradient", "gradients")
#: So many of the names say the bare word: two of these that differ are a contradiction.
BARE = 3
QM9_ENERGIES = ("u0", "energy_u0")
#: Consistent with forces where it differs from ``energy``: the energy at the electronic temperature, as ASE defines it.
FREE_ENERGY = "free_energy"

_ENERGY = re.compile(r"(?:(?P<before>.+?)[_.\- ])?(?:total_?)?energ(?:y|ies)(?:[_.\- ](?P<after>.+))?", re.IGNORECASE)
_FORCES = re.compile(
    r"(?:(?P<before>.+?)[_.\- ])?(?:total_?)?(?:forces?|gradients?)(?:[_.\- ](?P<after>.+))?", re.IGNORECASE
)
#: Parts of names of what is no total energy, or no label at all.
_OTHER = {
    "formation", "atomization", "atomisation", "binding", "interaction", "kinetic", "relative", "cohesive", "zero",
    "point", "adsorption", "isolated", "correction", "dispersion", "homo", "lumo", "gap", "fermi", "band", "reaction",
    "activation", "delta", "conserved", "nuclear", "repulsion", "corr", "correlation", "orbital", "solvation", "strain",
    "std", "sigma", "var", "variance", "error", "uncertainty", "weight", "weights", "mask", "per", "unit", "units",
    "max", "min", "mean", "rms", "norm", "key", "scf", "old", "smearing", "entropy", "virial", "local", "atomic",
    "atom", "internal", "hydration", "lattice", "surface", "barrier", "threshold", "cutoff", "shift", "net",
}  # fmt: skip


@dataclass(frozen=True)
class LabelKeys:
    """What a user says: the names of the columns to take, None where equimd is to choose; or no labels at all."""

    energy: str | None = None
    forces: str | None = None
    ignored: bool = False


@dataclass(frozen=True)
class Chosen:
    """The columns to read. ``notes`` say what else there was."""

    energy: str | None
    forces: str | None
    notes: list[str] = field(default_factory=list)


def is_gradient(name: str) -> bool:
    """Whether a column holds minus the forces."""
    return "gradient" in name.lower()


def energy_family(name: str) -> str | None:
    """The family of an energy column: "" for the standard one, a method's prefix, or None if it is no total energy."""
    return "" if name.lower() in ENERGY_NAMES else _family(_ENERGY, name)


def forces_family(name: str) -> str | None:
    """The family of a forces (or gradient) column, as :func:`energy_family`."""
    return "" if name.lower() in (*FORCES_NAMES, *GRADIENT_NAMES) else _family(_FORCES, name)


def _family(pattern: re.Pattern[str], name: str) -> str | None:
    found = pattern.fullmatch(name)
    if found is None:
        return None
    parts = [p.lower() for p in (found["before"], found["after"]) if p]
    if not parts or any(word in _OTHER for part in parts for word in re.split(r"[_.\- ]", part)):
        return None
    return "_".join(parts)


Same = Callable[[str, str], bool]
#: Of several energies, the one whose differences the forces explain best; None where that cannot be told.
Consistent = Callable[[Sequence[str], str], str | None]


def choose(
    energies: Sequence[str], forces: Sequence[str], asked: LabelKeys, *, same: Same, consistent: Consistent, where: str
) -> Chosen:
    """Energies and forces of one family, out of the numeric columns ``energies`` and ``forces`` of a file.

    The standard family is taken where it has what the others have, else the only one that has most.

    Args:
        asked: columns that the user names, which are taken whatever they are called.
        same: whether two columns hold the same values.
        consistent: see ``Consistent``.

    Raises:
        DataError: it is not clear which are meant.
        ConfigError: a column that is asked for is not there.
    """
    if asked.ignored:
        return Chosen(None, None)
    energy = _asked(asked.energy, energies, "energy", where)
    force = _asked(asked.forces, forces, "forces", where)
    if energy and force:
        return Chosen(energy, force)
    by_energy = _families(energies, energy_family, energy)
    by_forces = _families(forces, forces_family, force)
    if energy or force:
        family = _family_of_asked(energy, force, by_energy or by_forces, where)
    else:
        family = _pick_family(by_energy, by_forces, same, where)
    notes: list[str] = []
    if force is None and by_forces.get(family):
        force = _pick_column(by_forces[family], FORCES_NAMES, "forces", same, where)
    if energy is None and by_energy.get(family):
        names = by_energy[family]
        energy = _pick_energy(names, force, same, consistent, where, notes)
    left = sorted({n for names in (*by_energy.values(), *by_forces.values()) for n in names} - {energy, force})
    left = [n for n in left if not any(k and same(n, k) for k in (energy, force)) and not (notes and n in notes[-1])]
    if left and (energy or force):
        taken = " and ".join(f"'{n}'" for n in (energy, force) if n)
        notes.append(f"labels are {taken}; not used: {', '.join(left)} (--energy-key, --forces-key)")
    elif (
        not notes and (energy or force) and (family or (energy or "energy").lower() not in ("energy", "energies", "e"))
    ):
        notes.append(f"labels are {' and '.join(repr(n) for n in (energy, force) if n)}")
    return Chosen(energy, force, notes)


def _asked(name: str | None, columns: Sequence[str], what: str, where: str) -> str | None:
    """The column that the user names, in its own case or, where that is not there, in any."""
    if name is None or name in columns:
        return name
    alike = [c for c in columns if c.lower() == name.lower()]
    if len(alike) == 1:
        return alike[0]
    raise ConfigError(
        f"no column '{name}' that could be the {what}", where=where,
        hint=f"there are: {', '.join(sorted(columns)) or 'none'}",
    )  # fmt: skip


def _families(names: Sequence[str], family: Callable[[str], str | None], asked: str | None) -> dict[str, list[str]]:
    """Columns by family; where one is asked for, it stands alone and belongs to every family."""
    out: dict[str, list[str]] = {}
    for name in names:
        key = family(name)
        if asked is None and key is not None:
            out.setdefault(key, []).append(name)
    return out


def _family_of_asked(energy: str | None, force: str | None, others: dict[str, list[str]], where: str) -> str:
    """The family that goes with the one column that is asked for."""
    own = energy_family(energy) if energy else forces_family(force or "")
    if own in others or not others:
        return own or ""
    if own is not None or "" not in others:
        asked, missing = ("energy", "forces") if energy else ("forces", "energy")
        names = ", ".join(n for group in others.values() for n in group)
        raise DataError(
            f"no {missing} of the same method as '{energy or force}', found: {names}", where=where,
            hint=f"say which belong to it: --{asked}-key {energy or force} --{missing}-key NAME",
        )  # fmt: skip
    return ""


def _pick_family(by_energy: dict[str, list[str]], by_forces: dict[str, list[str]], same: Same, where: str) -> str:
    """The family that has energies and forces; or the only one where all have but one of them."""
    whole = [f for f in by_energy if f in by_forces]
    candidates = whole or list(by_energy if not by_forces else by_forces if not by_energy else [])
    if "" in candidates:
        return ""
    if candidates:
        table = [by_energy, by_forces] if whole else [by_energy or by_forces]
        first = candidates[0]
        for other in candidates[1:]:
            if not all(same(t[first][0], t[other][0]) for t in table):
                names = ", ".join(n for t in table for f in candidates for n in t[f])
                raise DataError(
                    f"several columns could be the labels and differ: {names}", where=where,
                    hint="say which are meant: --energy-key NAME --forces-key NAME",
                )  # fmt: skip
        return first
    if by_energy and by_forces:
        one, two = (next(iter(t.values()))[0] for t in (by_energy, by_forces))
        if "" in by_energy:
            one = by_energy[""][0]
        raise DataError(
            f"the energies are called '{one}' and the forces '{two}': they may be of two methods", where=where,
            hint=f"if they belong together: --energy-key {one} --forces-key {two}",
        )  # fmt: skip
    return ""


def _pick_energy(
    names: list[str], forces: str | None, same: Same, consistent: Consistent, where: str, notes: list[str]
) -> str:
    """Of the energies of a family, the standard one, unless the free energy is the one that the forces belong to."""
    free = next((n for n in names if n.lower() == FREE_ENERGY), None)
    rest = [n for n in names if n != free] or names
    energy = _pick_column(rest, ENERGY_NAMES, "energy", same, where)
    if free is None or forces is None or free == energy or same(energy, free):
        return energy
    best = consistent([energy, free], forces) or free
    notes.append(f"'{energy}' and '{free}' differ: '{best}' is taken, the one consistent with the forces")
    return best


def _pick_column(names: list[str], order: tuple[str, ...], what: str, same: Same, where: str) -> str:
    """The standard name, else the one of several columns that are the same."""
    ranked = sorted(names, key=lambda n: (order.index(n.lower()) if n.lower() in order else len(order), n != n.lower()))
    first = ranked[0]
    if first.lower() in QM9_ENERGIES:  # others of the kind (U, H, G) are no total energies beside it
        return first
    bare = [n for n in ranked[1:] if n.lower() in order[:BARE] or first not in order[:BARE]]
    if any(not same(first, n) for n in bare):
        shown = " and ".join(f"'{n}'" for n in sorted([first, *bare]))
        raise DataError(
            f"two columns could be the {what}: {shown}, and they differ", where=where,
            hint=f"remove the one that is not meant, or say which is: --{what}-key NAME",
        )  # fmt: skip
    return first
