"""``equimd export``: a trained model as a file that metatomic's engines run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from equimd.cli.arguments import Json, Overwrite, Run
from equimd.cli.options import with_settings
from equimd.tasks.export import DEFAULT, SETTINGS
from equimd.tasks.keywords import InferenceSettings


@with_settings(InferenceSettings, fields=SETTINGS)
def export(
    run: Run,
    out: Annotated[Path, typer.Option("--out", help="file to write")] = Path(DEFAULT),
    dtype: Annotated[
        Literal["float32", "float64"] | None,
        typer.Option("--dtype", help="of positions and energies as engines hand them over; by default the model's"),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """A model for the engines of metatomic: ASE, LAMMPS, i-PI, torch-sim and more, which need no equimd to run it.

    The file has energies, forces by their derivative (of a direct model: its own, as non_conservative_force), and of a
    calibrated run energy_uncertainty and energy_ensemble, draws of its posterior. Engines may warn of uncertainties;
    none of them stops: the guard does not go along, nor do uncertainties of forces. float32 gives a total energy of
    -4000 eV to 0.5 meV; --dtype float64 gives all digits, and costs little. A model of several charges or
    multiplicities is exported for one of them. Needs metatomic: pip install "equimd[metatomic]".

    Examples:

        equimd export runs/ethanol
        equimd export runs/ethanol --out ethanol.pt --dtype float64
        equimd export runs/ions --charge -1 --spin 1 --out anion.pt
    """
    from equimd.cli.common import echo_json
    from equimd.tasks.export import export as work

    done = work(run, out=out, dtype=dtype, overwrite=overwrite, **options)
    if json:
        echo_json(done.to_json())
    else:
        typer.echo(f"{done.path}: {', '.join(done.outputs)} of {' '.join(done.elements)}, {done.dtype}")
