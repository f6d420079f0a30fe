"""``equimd predict``: energy and forces of the structures in a file, with sigmas from a calibrated run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite, Run
from equimd.cli.completion import structures as offered
from equimd.cli.options import with_settings
from equimd.tasks.keywords import InferenceSettings

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.calculators import Prediction
    from equimd.tables import Table
    from equimd.uq.minimum import Minimum


@with_settings(InferenceSettings)
def predict(
    run: Run,
    structures: Annotated[
        Path,
        typer.Argument(
            metavar="STRUCTURES", help="xyz, data set, trajectory ...; or some frames: FILE@-1", autocompletion=offered
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="write the structures with all that is predicted, extxyz")
    ] = None,
    minimum: Annotated[
        bool, typer.Option("--minimum", help="go to the nearest minimum: its bond lengths and harmonic frequencies")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Energy, and the force on each atom, of every structure in a file.

    Of a run that `equimd calibrate` went over, also their standard deviations: of the energy, of each force component,
    and of each atom's force as a whole (the root of the trace of its covariance, which no rotation changes); and
    whether molecular dynamics would flag the structure, and which atom is the least certain. Exact sigmas of
    conservative forces cost tens of times the prediction itself. With --minimum, the structure is relaxed, and its bond
    lengths and harmonic frequencies are shown instead, ± what the error of the model makes of them.

    Examples:

        equimd predict runs/ethanol ethanol.xyz
        equimd predict runs/ethanol frames.extxyz --out predicted.extxyz
        equimd predict runs/ethanol ethanol.xyz --json
        equimd predict runs/ethanol frames.extxyz --no-uncertainty
        equimd predict runs/ethanol ethanol.xyz --minimum
    """
    from equimd.cli.common import echo_json
    from equimd.terminal import ProgressBar, show

    with ProgressBar() as progress:
        from equimd.data.given import structures_of
        from equimd.files import check_output
        from equimd.tasks.predict import predict as work

        atoms = structures_of(structures, **{k: options.pop(k, None) for k in ("charge", "spin")})
        if minimum:
            if out is not None:
                check_output(out, overwrite)
            atoms = _minima(run, atoms, json=json, **options)
            if out is None:
                return
            json = False
        predictions = work(run, atoms, out=out, overwrite=overwrite, progress=progress, **options)
    if json:
        echo_json({"structures": [p.to_json() for p in predictions]})
    elif out is None:
        for k, (a, p) in enumerate(zip(atoms, predictions, strict=True)):
            show(_parts(k, a, p))


def _minima(run: Path, atoms: list[Atoms], *, json: bool, **options: Any) -> list[Atoms]:
    """Say what is known of the minima, and give the structures there."""
    from equimd.cli.common import echo_json
    from equimd.tasks.predict import minima, minimum_as_json
    from equimd.terminal import show

    found = minima(run, atoms, settings=InferenceSettings.parse(options))
    if json:
        echo_json({"structures": [minimum_as_json(*each) for each in found]})
    for k, (a, at) in enumerate(found if not json else []):
        show(_minimum(k, a, at))
    return [a for a, _ in found]


def _minimum(number: int, atoms: Atoms, at: Minimum) -> list[Table | str]:
    from equimd.shown import with_error
    from equimd.tables import Table
    from equimd.tasks.predict import bonds_of

    pairs = bonds_of(atoms)
    lengths, errors = at.distances(pairs)
    known = [0.0] * len(lengths) if errors is None else errors.tolist()
    names = ["-".join(f"{atoms.symbols[i]}{i}" for i in pair) for pair in pairs.tolist()]
    bonds = [[n, with_error(x, e, 4)] for n, x, e in zip(names, lengths.tolist(), known, strict=True)]
    spread = [0.0] * len(at.frequencies) if at.frequency_errors is None else at.frequency_errors.tolist()
    rows = [[str(k), with_error(f, e, 1)] for k, (f, e) in enumerate(zip(at.frequencies, spread, strict=True))]
    told: list[Table | str] = [f"structure {number}: {atoms.get_chemical_formula()}, minimum at {at.energy:.6f} eV"]
    if bonds:
        told.append(Table(bonds, ("bond (A)", "length"), left=(0, 1)))
    told.append(Table(rows, ("vibration", "frequency (1/cm)"), left=(0, 1)))
    return [*told, *(["no errors of the model: the run is not calibrated, or they were not asked for"] if errors is None
                     else [])]  # fmt: skip


def _parts(number: int, atoms: Atoms, p: Prediction) -> list[Table | str]:
    from equimd.tables import Table

    known: list[str]
    sigmas: list[list[str]]
    head = f"structure {number}: {atoms.get_chemical_formula()}, energy {p.energy:.6f} eV"
    if p.energy_std is None or p.atom_forces_std is None:
        known, sigmas = [], [[]] * len(atoms)
    else:
        head += f", sigma {p.energy_std:.6f} eV"
        known, sigmas = ["sigma (eV/A)"], [[f"{s:.5f}"] for s in p.atom_forces_std]
    lines: list[Table | str] = [head]
    if p.forces is not None:
        rows = [
            [str(i), symbol, *(f"{x:z.5f}" for x in force), *sigma]
            for i, (symbol, force, sigma) in enumerate(zip(atoms.symbols, p.forces, sigmas, strict=True))
        ]
        lines.append(Table(rows, ("atom", "", *(f"F{x} (eV/A)" for x in "xyz"), *known), left=(1,)))
    if p.flagged:
        lines.append(f"flagged: score {p.score:.4g} eV/A is above the threshold; atom {p.atom} is the least certain")
    return lines
