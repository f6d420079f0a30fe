"""``equimd.predict``: energies, forces and sigmas of structures, and predictions as extended XYZ."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimd.data.given import GivenStructures, structures_of
from equimd.files import check_output, plain, write_atomic
from equimd.notices import doing, note, warn
from equimd.progress import Callback, counting
from equimd.tasks.keywords import InferenceSettings, cpu_threads, loaded, settings_of, takes

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

    from equimd.calculators import Prediction
    from equimd.uq.minimum import Minimum


@takes(InferenceSettings.model_fields)
def predict(
    run: Any,
    structures: GivenStructures,
    *,
    settings: InferenceSettings | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> list[Prediction]:
    """Energy, and the force on each atom, of every structure; what ``equimd predict`` does.

    Who asks often loads the model once: ``equimd.load(run).predict(atoms)``.

    Args:
        run: run folder, what ``equimd.train`` or ``equimd.calibrate`` returned, or a loaded model.
        structures: a file of structures, or ASE ``Atoms``, one or several.
        settings: an object of settings, beneath those given as keywords.
        out: file to write the structures to with all that is predicted, extxyz.
        overwrite: replace that file if it is there.
        progress: called with :class:`~equimd.progress.Progress` while sigmas are computed, the slow part.

    Returns:
        A prediction for each structure, in order.

    Raises:
        DataError: no structures. ModelError: elements the model never saw.
        ConfigError, RunError, UncertaintyError: of settings, run and calibration.
    """
    s = settings_of(InferenceSettings, settings, options)
    if out is not None:
        check_output(out, overwrite)
    with cpu_threads(s.threads):
        model, atoms = loaded(run, s), structures_of(structures, charge=s.charge, spin=s.spin)
        if len(atoms) <= s.batch_size_inference:
            progress = None
        with counting(progress, "structures", "uncertainties") as tell:
            found = model.predict(
                atoms,
                batch_size=s.batch_size_inference,
                uncertainty="auto" if s.uncertainty else False,
                progress=tell,
            )
    if not model.has_forces:
        warn("the model was trained on energies alone: it gives no forces")
    if out is not None:
        write_predictions(out, atoms, found)
        note(f"wrote {len(atoms):,} structures to {out}")
    return found


def minima(run: Any, structures: GivenStructures, *, settings: InferenceSettings) -> list[tuple[Atoms, Minimum]]:
    """Each structure at its nearest minimum, and what is known of it; what ``equimd predict --minimum`` does.

    Raises:
        DataError: no structures, or no minimum found. ModelError: elements the model never saw.
        RunError, UncertaintyError: of run and calibration.
    """
    with cpu_threads(settings.threads):
        model, found = loaded(run, settings), []
        for atoms in structures_of(structures, charge=settings.charge, spin=settings.spin):
            doing("going to a minimum")
            at = model.minimum(atoms, uncertainty="auto" if settings.uncertainty else False)
            relaxed = atoms.copy()
            relaxed.positions = at.positions
            found.append((relaxed, at))
    return found


def minimum_as_json(atoms: Atoms, at: Minimum) -> dict[str, Any]:
    """The entry of a structure in ``equimd predict --minimum --json``; errors only of a calibrated run."""
    pairs = bonds_of(atoms)
    lengths, errors = at.distances(pairs)
    entry: dict[str, Any] = {
        "energy_eV": at.energy,
        "positions_A": at.positions,
        "bonds": [{"atoms": b, "length_A": x} for b, x in zip(pairs.tolist(), lengths.tolist(), strict=True)],
        "frequencies_per_cm": at.frequencies,
    }
    if errors is not None:
        for bond, error in zip(entry["bonds"], errors.tolist(), strict=True):
            bond["model_A"] = error
        entry["frequencies_model_per_cm"] = at.frequency_errors
    return plain(entry)


def bonds_of(atoms: Atoms) -> np.ndarray:
    """(P, 2) indices of bonded atoms of an open molecule; none of a crystal."""
    import numpy as np
    import torch

    from equimd.data.system import System
    from equimd.guard.limits import Limits

    if atoms.pbc.any():
        return np.zeros((0, 2), np.int64)
    return Limits.from_reference(System.build(atoms.numbers), torch.tensor(atoms.positions)).bonds


def write_predictions(
    path: str | Path, atoms: Sequence[Atoms], predictions: Sequence[Prediction], *, keep_labels: bool = False
) -> None:
    """Extended XYZ of the structures with predicted energies, forces and, of crystals, stress (eV, eV/Angstrom,
    eV/Angstrom^3), in ASE's usual places.

    Of a calibrated run, also ``energy_std``, ``score``, ``screened``, ``flagged`` and ``atom`` of each structure, and
    the columns ``forces_std`` (three an atom) and ``atom_forces_std``, as in :class:`Prediction`.

    Args:
        keep_labels: keep the energies and forces the structures came with, as ``energy_ref`` and ``forces_ref``.
    """
    from ase.io import write

    text = io.StringIO()
    write(text, [_labelled(a, p, keep_labels) for a, p in zip(atoms, predictions, strict=True)], format="extxyz")
    write_atomic(path, text.getvalue())


def _labelled(atoms: Atoms, p: Prediction, keep_labels: bool) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    copy = atoms.copy()  # with its constraints: what was held fixed stays so
    results = atoms.calc.results if atoms.calc is not None else {}
    for kept, key in ((copy.info, "energy"), (copy.arrays, "forces")):
        own = kept.pop(key, None)  # a label may stand there, too, where the prediction is to stand
        known = results.get(key, own)
        if keep_labels and known is not None:
            kept[f"{key}_ref"] = known
    for key in ("free_energy", "stress", "energies", "stresses"):
        copy.info.pop(key, None)
    labels = {"energy": p.energy, "forces": p.forces, "stress": p.stress}
    copy.calc = SinglePointCalculator(copy, **{k: v for k, v in labels.items() if v is not None})
    if p.forces_std is not None and p.atom_forces_std is not None:
        copy.info |= {k: getattr(p, k) for k in ("energy_std", "score", "screened", "flagged", "atom")}
        copy.arrays |= {"forces_std": p.forces_std, "atom_forces_std": p.atom_forces_std}
    return copy
