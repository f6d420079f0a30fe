"""``equimd compare``: two models side by side on one molecule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from equimd.cli.arguments import (
    Device,
    EnergyKey,
    EnergyUnit,
    ForcesKey,
    ForceUnit,
    Json,
    Labels,
    LengthUnit,
    MaskFixed,
)
from equimd.errors import EXIT_INTERRUPTED


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="run folder of a model")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="run folder of another")],
    structure: Annotated[Path, typer.Argument(metavar="STRUCTURE", help="start geometry of the dynamics")],
    data: Annotated[
        list[str] | None, typer.Option("--data", help="frames with energies and forces for the errors; may be repeated")
    ] = None,
    labels: Labels = "revised",
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    force_unit: ForceUnit = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    mask_fixed: MaskFixed = False,
    time: Annotated[str | None, typer.Option("--time", help="of the dynamics: ps, or 500fs, 1ns")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="the same in steps; 10000 without --time")] = None,
    dt: Annotated[float, typer.Option("--dt", help="time step, fs")] = 0.5,
    temperature: Annotated[float, typer.Option("--temperature", help="K: of the start")] = 300.0,
    equilibrate: Annotated[str, typer.Option("--equilibrate", help="ps under a Langevin bath before")] = "2",
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="runs of each model, with other velocities")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the velocities; the same for both")] = 0,
    relax: Annotated[bool, typer.Option("--relax", help="go to each model's nearest minimum first")] = False,
    save_every: Annotated[int, typer.Option("--save-every", min=1, help="steps between saved frames")] = 10,
    dtype: Annotated[
        Literal["float32", "float64"] | None, typer.Option("--dtype", help="precision of both, if not their own")
    ] = None,
    device: Device = "auto",
    compile: Annotated[
        Literal["auto", "on", "off"], typer.Option("--compile", help="auto: where compiled before or it pays back")
    ] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder to make; by default comparisons/STRUCTURE-001")
    ] = None,
    json: Json = False,
) -> None:
    """Compare two models, such as one with conservative and one with direct forces.

    Both run molecules of the same start velocities at constant energy, after a Langevin bath. Measured: errors on the
    frames of --data, net force and torque (zero for forces that have an energy), time of a step (the models in turns;
    CPU time on one thread), drift of the total energy with its error, and for how long all bonds stay within 0.5 A of
    their length in the start geometry. No threshold watches, the physical checks do. The output folder holds a table
    as JSON, a plot and the simulations; the same command again goes on with an interrupted comparison.

    Examples:

        equimd compare runs/conservative runs/direct ethanol.xyz --data bundled:ethanol --time 20
        equimd compare runs/conservative runs/direct ethanol.xyz --replicas 3 --dtype float64 --json
    """
    from equimd.cli.common import echo_json, log, warn
    from equimd.cli.simulate import _show_notices
    from equimd.config import parse_config
    from equimd.run import free_name
    from equimd.tasks.compare import table, task
    from equimd.tasks.simulate.settings import parse_settings
    from equimd.training.setup import open_test_data

    _show_notices()
    given = {
        "structure": str(structure), "ensemble": "nve", "dt": dt, "temperature": temperature, "seed": seed,
        "equilibrate": equilibrate, "replicas": replicas, "relax": relax, "save_every": save_every, "dtype": dtype,
        "device": device, "compile": compile, "threads": threads, "time": time, "steps": steps,
    }  # fmt: skip
    settings = parse_settings({k: v for k, v in given.items() if v is not None}, where="command line")
    reading = {
        "data": data, "labels": labels, "energy_unit": energy_unit, "length_unit": length_unit,
        "force_unit": force_unit, "energy_key": energy_key, "forces_key": forces_key, "mask_fixed": mask_fixed,
    }  # fmt: skip
    frames = open_test_data(parse_config(reading)) if data else None
    contenders = task.prepare([str(run_a), str(run_b)], settings, frames)
    for c in contenders:
        for text in c.session.warnings:
            warn(f"{c.name}: {text}")
    folder = out or free_name(structure.stem, "comparisons")
    found = task.compare(contenders, folder, frames)
    if found["status"] == "interrupted":
        log(f"interrupted; the same command with --out {folder} goes on")
        raise typer.Exit(EXIT_INTERRUPTED)
    if json:
        echo_json(found)
    else:
        typer.echo(table.table(found))
    log(f"table, plot and simulations: {folder}")
