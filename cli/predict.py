"""``equimd predict``: energy and forces of the structures in a file, with sigmas from a calibrated run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equimd.cli.arguments import BatchSize, Device, Json, Run, Threads, Uncertainty, Weights, set_threads
from equimd.progress import CountedProgress

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.calculators import Prediction


def predict(
    run: Run,
    structures: Annotated[Path, typer.Argument(help="file of structures: xyz, extxyz, or anything ASE reads")],
    out: Annotated[
        Path | None, typer.Option("--out", help="write the structures with all that is predicted, extxyz")
    ] = None,
    weights: Weights = "best",
    uncertainty: Uncertainty = True,
    batch_size: BatchSize = 50,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Energy, and the force on each atom, of every structure in a file.

    Of a run that `equimd calibrate` went over, also their standard deviations: of the energy, of each force component,
    and of each atom's force as a whole (the root of the trace of its covariance, which no rotation changes); and
    whether molecular dynamics would flag the structure, and which atom is the least certain. Exact sigmas of
    conservative forces cost tens of times the prediction itself.

    Examples:

        equimd predict runs/ethanol ethanol.xyz
        equimd predict runs/ethanol frames.extxyz --out predicted.extxyz
        equimd predict runs/ethanol ethanol.xyz --json
        equimd predict runs/ethanol frames.extxyz --no-uncertainty
    """
    from equimd.calculators import load
    from equimd.cli.common import echo_json, log, warn
    from equimd.data.readers.structures import read_structures
    from equimd.machine import choose_device
    from equimd.tasks.predict import write_predictions

    set_threads(threads)
    model = load(run, which=weights, device=str(choose_device(device)))
    atoms = read_structures(structures)
    bar = CountedProgress("structures")
    try:
        predictions = model.predict(
            atoms,
            batch_size=batch_size,
            uncertainty="auto" if uncertainty else False,
            progress=(lambda done, total: bar(done, total, "uncertainties")) if len(atoms) > batch_size else None,
        )
    finally:
        bar.close()
    if not model.has_forces:
        warn("the model was trained on energies alone: it gives no forces")
    if out is not None:
        write_predictions(out, atoms, predictions)
        log(f"wrote {len(atoms)} structures to {out}")
    if json:
        echo_json({"structures": [_entry(p) for p in predictions]})
    elif out is None:
        for k, (a, p) in enumerate(zip(atoms, predictions, strict=True)):
            typer.echo(_text(k, a, p))


def _entry(p: Prediction) -> dict[str, Any]:
    """One structure; the uncertainties only of a calibrated run."""
    entry: dict[str, Any] = {"energy_eV": p.energy, "forces_eV_per_A": p.forces}
    if p.energy_std is None:
        return entry
    return entry | {
        "energy_std_eV": p.energy_std,
        "forces_std_eV_per_A": p.forces_std,
        "atom_forces_std_eV_per_A": p.atom_forces_std,
        "score_eV_per_A": p.score,
        "flagged": p.flagged,
        "atom": p.atom,
    }


def _text(number: int, atoms: Atoms, p: Prediction) -> str:
    head = f"structure {number}: {atoms.get_chemical_formula()}, energy {p.energy:.6f} eV"
    if p.energy_std is None or p.atom_forces_std is None:
        columns, sigmas = "", [""] * len(atoms)
    else:
        head += f", sigma {p.energy_std:.6f} eV"
        columns, sigmas = f"{'sigma':>12}", [f"{s:>12.5f}" for s in p.atom_forces_std]
    lines = [head]
    if p.forces is not None:
        lines.append(f"{'atom':>6}{'':>4}{'Fx':>12}{'Fy':>12}{'Fz':>12}{columns}  eV/A")
        for i, (symbol, force, sigma) in enumerate(zip(atoms.symbols, p.forces, sigmas, strict=True)):
            lines.append(f"{i:>6}{symbol:>4}" + "".join(f"{x:>12.5f}" for x in force) + sigma)
    if p.flagged:
        lines.append(f"flagged: score {p.score:.4g} eV/A is above the threshold; atom {p.atom} is the least certain")
    return "\n".join(lines)
