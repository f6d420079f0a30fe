"""``equimd traj``: trajectories read off, drawn, and written for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite
from equimd.cli.common import echo_json, log, sub_app
from equimd.cli.options import with_settings
from equimd.tasks.trajectory.settings import AnalysisSettings

app = sub_app("Analyse, draw and convert trajectories.")

_Source = Annotated[
    str, typer.Argument(metavar="SIM_OR_FILE", help="a simulation's folder, or a trajectory; or some frames: md@::10")
]


@app.command()
@with_settings(AnalysisSettings)
def analyse(
    source: _Source,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder to make: everything as JSON and CSV, and a figure")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """What a trajectory tells, with errors of the model and of sampling.

    Means of energy, temperature and force sigma, the length of each bond, conformers and their populations, the drift
    of the conserved quantity, and what the guard said; with --out and --json also h(r), the vibrational density of
    states, free energies along torsions, and all distributions. Values are ± model ± sampling: the first, of
    simulations in a heat bath by a calibrated run, is the standard deviation over draws from the run's posterior, by
    reweighting; the second is a standard error from the autocorrelation time.

    Examples:

        equimd traj analyse simulations/ethanol-300K-001
        equimd traj analyse simulations/ethanol-300K-001@1000: --out analysis
        equimd traj analyse simulations/ethanol-300K-001 --replica 3 --json
        equimd traj analyse simulations/ethanol-300K-001 --no-uncertainty
        equimd traj analyse other.extxyz --interval 0.5
    """
    from equimd.tasks.trajectory.call import analyse as work
    from equimd.terminal import ProgressBar, show

    with ProgressBar() as progress:
        done = work(source, out=out, overwrite=overwrite, progress=progress, **options)
    if json:
        echo_json(done.to_json())
    else:
        show(done.parts())


@app.command()
@with_settings(AnalysisSettings)
def plot(
    source: _Source,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="PNG to write")],
    overwrite: Overwrite = False,
    **options: Any,
) -> None:
    """Draw what `equimd traj analyse` finds, in one figure.

    Examples:

        equimd traj plot simulations/ethanol-300K-001 ethanol.png
        equimd traj plot simulations/ethanol-300K-001/trajectory-003.h5md@::10 three.png --overwrite
    """
    from equimd.files import check_output
    from equimd.tasks.trajectory.call import analyse as work

    check_output(out, overwrite)
    work(source, **options).plot(out, overwrite)
    print(out)


@app.command()
def convert(
    source: _Source,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="file to write; its ending is the format")],
    replica: Annotated[
        int | None, typer.Option("--replica", min=0, help="one replica alone; by default all, to OUT-000, OUT-001 ...")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a trajectory in another format.

    Extended XYZ (.extxyz, .xyz) and ASE's .traj hold all there is: energies, forces, velocities, sigmas and flags. PDB
    has the sigma of each atom as its B-factor, in meV/A. MDAnalysis writes .dcd, .xtc and .trr, which have no elements
    (start.xyz of the simulation has them): pip install 'equimd[traj]'.

    Examples:

        equimd traj convert simulations/ethanol-300K-001 ethanol.extxyz
        equimd traj convert simulations/ethanol-300K-001@::10 ethanol.pdb
        equimd traj convert simulations/ethanol-300K-001/trajectory-003.h5md ethanol.dcd --overwrite
        equimd traj convert simulations/ethanol-300K-001 ethanol.xtc --replica 3
    """
    from equimd.tasks.trajectory.convert import convert as work

    done = work(source, out, replica=replica, overwrite=overwrite)
    if json:
        echo_json(done.to_json())
        return
    log(f"{done.n_frames:,} frames")
    for path in done.paths:
        print(path)
