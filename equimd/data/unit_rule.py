"""The rule that infers or checks the units of a file that states none. In prose:
docs/reference/data-formats.md.

Three independent pieces of evidence, each taken as the median (or a stated fraction) over a sample of the frames:

energy
    E of a frame against the sum over its atoms of a known atomic energy. Two families of atomic energies are
    recognised: *total* (all electrons: HF, DFT, coupled cluster) and *valence* (GFN2-xTB). Energies with references
    removed match neither and say nothing.
forces
    The RMS force component of a molecule in thermal motion is sqrt(kT * k), with k the mean force constant of its
    bonds: 39 eV/A^2, from the 1.01 eV/A measured on acetylacetone at 300 K.
lengths
    The shortest distance over the sum of covalent radii is about 1 for any bonded structure.

Energies and forces must agree. Where they leave more than one unit, or none, the rule is not sure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equimd.data.frames import Frames
from equimd.errors import UnitsError
from equimd.units import ENERGY_UNITS, HARTREE, KB, LENGTH_UNITS

# Total energies of neutral atoms in Hartree. H-Ar: exact non-relativistic (Chakravorty et al., Phys. Rev. A 47, 3649
# (1993)); K-Kr: Hartree-Fock limit (Clementi and Roetti, At. Data Nucl. Data Tables 14, 177 (1974)). Index 0 is Z = 1.
_TOTAL = np.array(
    [0.5, 2.9037, 7.4781, 14.6674, 24.6539, 37.8450, 54.5892, 75.0673, 99.7339, 128.9376,
     162.2546, 200.053, 242.346, 289.359, 341.259, 398.110, 460.148, 527.540,
     599.165, 676.758, 759.736, 848.406, 942.884, 1043.356, 1149.866, 1262.444, 1381.415, 1506.871, 1638.964,
     1777.848, 1923.261, 2075.360, 2234.239, 2399.868, 2572.441, 2752.055]
)  # fmt: skip
# Self-consistent GFN2-xTB energies of neutral atoms in eV, Z = 1..86, computed with tblite 0.5 (lowest multiplicity it
# takes by default), rounded to 0.1 eV.
_VALENCE = np.array(
    [10.7, 47.4, 4.9, 15.5, 25.9, 48.8, 71.0, 102.6, 125.7, 161.4, 4.5, 12.7, 24.6, 42.8, 64.7, 85.7, 122.0, 116.4,
     4.5, 10.1, 23.2, 37.2, 46.8, 47.6, 71.3, 80.2, 95.4, 127.0, 102.0, 14.4, 29.4, 49.2, 60.9, 84.9, 110.2, 116.2,
     4.4, 12.6, 32.5, 35.7, 48.5, 48.6, 67.5, 82.2, 106.0, 120.0, 104.0, 14.5, 30.6, 54.8, 58.9, 81.9, 102.8, 105.7,
     4.0, 11.8, 32.8, 24.5, 24.3, 24.1, 24.0, 23.8, 23.6, 23.5, 23.3, 23.1, 23.0, 22.8, 22.6, 22.5, 22.3, 35.7, 51.8,
     60.3, 81.9, 83.6, 99.2, 120.7, 103.5, 23.1, 39.1, 60.0, 61.7, 74.4, 81.6, 105.0]
)  # fmt: skip

#: Atomisation energies reach 7.4 eV per atom (diamond) in total energies and 8.8 (CO2) in GFN2-xTB: 10 bounds both.
BINDING = 10.0
#: How far above its separated atoms a strained or excited frame may lie, eV per atom.
STRAIN = 3.0
#: Methods differ in the total energy of an atom by 0.5 %, relativity adds 1.3 % at krypton: 2 % bounds both.
METHOD = 0.02
#: Mean force constant, eV/A^2: (1.01 eV/A)^2 / k_B 300 K, acetylacetone, PBE-like DFT.
FORCE_CONSTANT = 39.0
#: RMS forces, eV/A, of matter between 20 K and 6000 K. The window spans a factor 17, less than the 23 between eV and
#: kcal/mol, so that no force can look thermal in both.
THERMAL = (float(np.sqrt(KB * 20 * FORCE_CONSTANT)), float(np.sqrt(KB * 6000 * FORCE_CONSTANT)))
#: RMS forces above this, eV/A, are none of matter: equivalent to 30,000 K.
FORCE_LIMIT = float(np.sqrt(KB * 30000 * FORCE_CONSTANT))
#: Typical shortest distance over the sum of covalent radii.
BOND_RATIO = 0.95
#: Share of the sampled frames that must agree.
AGREE = 0.9
SAMPLE = 500
_CRYSTALS = 20


@dataclass(frozen=True)
class Verdict:
    """What the rule says. ``problem`` is None, ``units_unknown`` or ``units_mismatch``; ``note`` says why."""

    energy: str
    length: str
    source: str
    note: str
    problem: str | None = None
    probable_energy: str | None = None
    probable_length: str | None = None


def judge_units(
    block: Frames, *, energy: str | None = None, length: str | None = None, convention: bool = False
) -> Verdict:
    """Infer, or with ``convention`` check (eV and Angstrom unless the evidence is against it), the units of ``block``.

    Args:
        block: frames in the file's own units.
        energy, length: a unit that is stated already; only the other one is judged.
    """
    sample = _sample(block)
    length_seen, length_note = _length_evidence(sample, crystals=not convention)
    used_length = length or ("Angstrom" if convention else length_seen)
    if length is None and convention and length_seen not in (None, "Angstrom"):
        note = f"positions look like {length_seen}, not Angstrom: {length_note}"
        alone = _judge_energy(sample, str(length_seen), "", False)
        probable = energy or (alone.energy if alone.problem is None else alone.probable_energy)
        return Verdict(energy or "eV", "Angstrom", "unknown", note, "units_mismatch", probable, length_seen)
    if used_length is None:
        if (sample.n_atoms > 1).any():
            note = f"the length unit cannot be inferred: {length_note}"
            return Verdict(energy or "eV", "Angstrom", "unknown", note, "units_unknown", energy, None)
        used_length = "Angstrom"  # isolated atoms: no length matters
    if energy is not None:
        return Verdict(energy, used_length, "stated" if length else "inferred", f"energy unit stated; {length_note}")
    return _judge_energy(sample, used_length, length_note, convention)


def _judge_energy(sample: Frames, length: str, length_note: str, convention: bool) -> Verdict:
    """The energy unit, given the length unit."""
    rms = _force_rms(sample)
    families = _energy_evidence(sample)
    impossible = {u for u in ENERGY_UNITS if _too_low(sample, u)}
    by_force = {u: rms * f / LENGTH_UNITS[length] for u, f in ENERGY_UNITS.items()}
    thermal = {u for u, r in by_force.items() if THERMAL[0] <= r <= THERMAL[1]} - impossible
    evidence = _describe(sample, families, rms, thermal)
    if not convention and np.isnan(rms) and not np.isfinite(sample.energy).any():
        return Verdict("eV", length, "inferred", f"no energies and no forces; {length_note}")
    if convention:
        return _check_convention(families, impossible, by_force["eV"], thermal, length, evidence)
    candidates = set(families) or thermal
    if len(candidates) > 1 and candidates & thermal:
        candidates &= thermal
    if len(candidates) != 1:
        why = "several units fit" if candidates else "no unit fits"
        note = f"the energy unit cannot be inferred ({why}): {evidence}"
        return Verdict("eV", length, "unknown", note, "units_unknown", None, length)
    (unit,) = candidates
    if not np.isnan(rms) and unit not in thermal:
        note = f"energies look like {unit}, but forces do not: {evidence}"
        return Verdict("eV", length, "unknown", note, "units_unknown", unit, length)
    return Verdict(unit, length, "inferred", f"inferred {unit}: {evidence}; {length_note}")


def _check_convention(
    families: dict[str, str], impossible: set[str], rms_ev: float, thermal: set[str], length: str, evidence: str
) -> Verdict:
    """eV unless energies or forces are against it."""
    against = []
    if "eV" in impossible:
        against.append("energies lie below the total energy of all electrons")
    elif families and "eV" not in families:
        looks_thermal = not np.isnan(rms_ev) and THERMAL[0] <= rms_ev <= THERMAL[1]
        if "total" in families.values() or not looks_thermal:
            against.append("energies match another unit")
    if rms_ev > FORCE_LIMIT:
        against.append(f"forces are larger than {FORCE_LIMIT:.0f} eV/A RMS")
    if not against:
        return Verdict("eV", length, "inferred", f"eV by convention of the format, and nothing against it: {evidence}")
    both = set(families) & thermal
    options = both or set(families) or (thermal - {"eV"})
    probable = next(iter(options)) if len(options) == 1 else None
    note = f"read as eV by convention of the format, but {' and '.join(against)}: {evidence}"
    return Verdict("eV", length, "unknown", note, "units_mismatch", probable, length)


def mismatch_error(verdict: Verdict, path: str) -> UnitsError:
    """The error for a verdict with a problem; it names the probable unit and the option that states it."""
    options = []
    if verdict.probable_length not in (None, "Angstrom"):
        options.append(f"--length-unit {verdict.probable_length}")
    if verdict.probable_energy:
        options.append(f"--energy-unit {verdict.probable_energy}")
        hint = f"probably {verdict.probable_energy}: state it with {' '.join(options)} (energy_unit= in Python)"
    elif options:
        hint = f"probably {verdict.probable_length}: state it with {options[0]} (length_unit= in Python)"
    else:
        hint = "state them: --energy-unit " + "|".join(ENERGY_UNITS) + " and --length-unit " + "|".join(LENGTH_UNITS)
    error = UnitsError(verdict.note, where=path, hint=hint)
    error.code = verdict.problem or "units_unknown"
    return error


def _sample(block: Frames) -> Frames:
    """At most ``SAMPLE`` frames, evenly spaced."""
    if len(block) <= SAMPLE:
        return block
    return block.take(np.linspace(0, len(block) - 1, SAMPLE).astype(np.int64))


def _sums(sample: Frames, table: np.ndarray) -> np.ndarray:
    """(B,) minus the sum of ``table`` over the atoms of each frame; NaN where an element is not in it."""
    padded = np.full(256, np.nan)
    padded[0] = 0.0
    padded[1 : len(table) + 1] = table
    return -padded[sample.numbers].sum(1)


def _energy_evidence(sample: Frames) -> dict[str, str]:
    """Unit -> family of atomic energies that the energies match in that unit."""
    found: dict[str, str] = {}
    labelled = np.isfinite(sample.energy)
    for family, table in (("total", _TOTAL * HARTREE), ("valence", _VALENCE)):
        reference = _sums(sample, table)
        usable = labelled & np.isfinite(reference)
        if usable.sum() < AGREE * labelled.sum() or not usable.any():
            continue
        ref, n = reference[usable], sample.n_atoms[usable]
        slack = METHOD * np.abs(ref)
        for unit, factor in ENERGY_UNITS.items():
            above = sample.energy[usable] * factor - ref
            fits = (above >= -BINDING * n - slack) & (above <= STRAIN * n + slack)
            if fits.mean() >= AGREE:
                found.setdefault(unit, family)
    return found


def _too_low(sample: Frames, unit: str) -> bool:
    """Whether the median energy, in ``unit``, lies below any total energy that the atoms can have.

    Beyond krypton the non-relativistic total energy is bounded by the Thomas-Fermi term 0.7687 Z^(7/3) Hartree, which
    overestimates binding, with 10 % for relativity (radon: 7 %).
    """
    labelled = np.isfinite(sample.energy)
    if not labelled.any():
        return False
    heavy = 1.1 * 0.7687 * np.arange(len(_TOTAL) + 1, 119, dtype=float) ** (7 / 3)
    reference = _sums(sample, np.concatenate([_TOTAL, heavy]) * HARTREE)
    lowest = reference - BINDING * sample.n_atoms - METHOD * np.abs(reference)
    return bool(np.mean((sample.energy * ENERGY_UNITS[unit] < lowest)[labelled]) > 0.5)


def _force_rms(sample: Frames) -> float:
    """Median over the frames with forces of the RMS force component, in the file's units; NaN without forces."""
    chosen = sample.has_forces & (sample.n_atoms > 1)
    if not chosen.any():
        return float("nan")
    real = sample.numbers[chosen] > 0
    squares = np.where(real[..., None], sample.forces[chosen] ** 2, 0.0).sum((1, 2))
    return float(np.median(np.sqrt(squares / (3 * real.sum(1)))))


def _length_evidence(sample: Frames, crystals: bool) -> tuple[str | None, str]:
    """The length unit that bonds show, and why; lone atoms say nothing.

    Periodic frames are asked only with ``crystals``, and only where no frame is open: expanded ones have long bonds.
    """
    from ase.data import covalent_radii

    radii = np.resize(np.asarray(covalent_radii, float), 256)
    ratios = []
    bonding = ~np.isin(sample.numbers, (0, 2, 10, 18, 36, 54, 86)).all(1)  # noble gases alone have no bonds
    for k in np.flatnonzero((sample.n_atoms > 1) & ~sample.pbc.any(1) & bonding):
        n = int(sample.n_atoms[k])
        r, rc = sample.positions[k, :n], radii[sample.numbers[k, :n]]
        distance = np.linalg.norm(r[:, None] - r[None], axis=-1) / (rc[:, None] + rc[None])
        ratios.append(distance[np.triu_indices(n, 1)].min())
    for k in np.flatnonzero(sample.pbc.any(1) & bonding)[:_CRYSTALS] if crystals and not ratios else ():
        found = _closest_image(sample, int(k), radii)
        if found is not None:
            ratios.append(found)
    if not ratios:
        return None, "no open molecule to measure bonds in"
    ratio = float(np.quantile(ratios, 0.05))  # low quantile: a dissociation scan still has bonded frames
    seen = {u: abs(np.log(ratio * f / BOND_RATIO)) if ratio > 0 else np.inf for u, f in LENGTH_UNITS.items()}
    best = min(seen, key=lambda u: seen[u])
    note = f"shortest distances are {ratio:.2f} of the covalent radii"
    if ratio > BOND_RATIO * LENGTH_UNITS["Bohr"] ** -1.5:  # half way, in the logarithm, beyond bonds in Bohr
        return None, note + ", no bonds in any unit"
    return best, f"{note} ({best})"


def _closest_image(sample: Frames, k: int, radii: np.ndarray) -> float | None:
    """The shortest distance of a periodic frame over the sum of the two radii; None where none are near."""
    from ase.neighborlist import primitive_neighbor_list

    n = int(sample.n_atoms[k])
    z, cell = sample.numbers[k, :n], sample.cell[k]
    edge = (abs(np.linalg.det(cell)) / n) ** (1 / 3)  # of the cube that an atom has to itself, in any unit
    if not 0 < edge < np.inf:
        return None
    i, j, d = primitive_neighbor_list("ijd", sample.pbc[k], cell, sample.positions[k, :n], 1.5 * edge)
    return float((d / (radii[z[i]] + radii[z[j]])).min()) if len(d) else None


def _describe(sample: Frames, families: dict[str, str], rms: float, thermal: set[str]) -> str:
    """The evidence in a sentence."""
    labelled = np.isfinite(sample.energy)
    parts = []
    if labelled.any():
        per_atom = float(np.median(sample.energy[labelled] / sample.n_atoms[labelled]))
        fits = ", ".join(f"{family} energies in {unit}" for unit, family in families.items())
        parts.append(f"energies of {per_atom:.6g} per atom fit {fits or 'no known atomic energies'}")
    if not np.isnan(rms):
        fits = ", ".join(f"{u}/length" for u in ENERGY_UNITS if u in thermal)
        parts.append(f"forces of {rms:.3g} RMS are thermal in {fits or 'no unit'}")
    return "; ".join(parts) or "no energies and no forces"
