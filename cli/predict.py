"""``equimd predict``: energy and forces of the structures in a file, with sigmas from a calibrated run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite, Run
from equimd.cli.options import with_settings
from equimd.tasks.keywords import InferenceSettings

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.calculators import Prediction


@with_settings(InferenceSettings)
def predict(
    run: Run,
    structures: Annotated[Path, typer.Argument(help="xyz, data set, trajectory ...; or some frames: FILE@-1")],
    out: Annotated[
        Path | None, typer.Option("--out", help="write the structures with all that is predicted, extxyz")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
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
    from equimd.cli.common import echo_json
    from equimd.terminal import ProgressBar

    with ProgressBar() as progress:
        from equimd.data.given import structures_of
        from equimd.tasks.predict import predict as work

        atoms = structures_of(structures, **{k: options.pop(k, None) for k in ("charge", "spin")})
        predictions = work(run, atoms, out=out, overwrite=overwrite, progress=progress, **options)
    if json:
        echo_json({"structures": [p.to_json() for p in predictions]})
    elif out is None:
        for k, (a, p) in enumerate(zip(atoms, predictions, strict=True)):
            typer.echo(_text(k, a, p))


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
