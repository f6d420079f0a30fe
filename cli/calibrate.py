"""``equimd calibrate``: the posterior of a trained run, sigmas that mean what they say, and thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equimd.cli.arguments import EnergyKey, EnergyUnit, ForcesKey, ForceUnit, Labels, LengthUnit, MaskFixed
from equimd.cli.options import choices
from equimd.md.ensembles import DEFAULT, ENSEMBLES, FRICTION, TAU
from equimd.progress import CountedProgress

if TYPE_CHECKING:
    from equimd.guard.calibration import Calibration
    from equimd.tasks.calibrate.stages import Prepared


def calibrate(
    run: Annotated[Path, typer.Argument(help="run folder of the model")],
    data: Annotated[
        list[str], typer.Option("--data", help="frames the model never saw, with forces and energies; may be repeated")
    ],
    test_data: Annotated[
        list[str] | None, typer.Option("--test-data", help="other such frames, to report on; else a part of --data")
    ] = None,
    train_data: Annotated[
        list[str] | None, typer.Option("--train-data", help="where the training frames are, if they have moved")
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option("--false-alarm-rate", help="share of ordinary frames that may be flagged")
    ] = 0.01,
    false_halt_rate: Annotated[
        float, typer.Option("--false-halt-rate", help="probability that an ordinary run is halted")
    ] = 0.1,
    run_length: Annotated[int, typer.Option("--run-length", min=1, help="steps of such a run")] = 10_000,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="K; by default what the data say they were sampled at")
    ] = None,
    ensemble: Annotated[str, typer.Option("--ensemble", metavar=choices(ENSEMBLES))] = DEFAULT,
    friction: Annotated[float, typer.Option("--friction", help="of langevin, 1/fs")] = FRICTION.default,
    tau: Annotated[float, typer.Option("--tau", help=TAU.description)] = TAU.default,
    dt: Annotated[float, typer.Option("--dt", help="time step, fs")] = 0.5,
    score_every: Annotated[int, typer.Option("--score-every", min=1, help="steps between two scores")] = 1,
    blocks: Annotated[
        int, typer.Option("--blocks", min=1, help="independent runs of the model for the halt threshold")
    ] = 19,
    halt: Annotated[bool, typer.Option("--halt/--no-halt", help="whether to calibrate a halt threshold")] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the parts, the starts, velocities and noise")] = 0,
    labels: Labels = "revised",
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    force_unit: ForceUnit = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    mask_fixed: MaskFixed = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; by default all cores")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Learn how sure a trained model may be of itself, from frames it never saw.

    Fits the posterior of the last layer to the training frames, recalibrates its sigmas of energies and forces on
    --data, and sets three thresholds: flag (a share of ordinary frames), halt (the probability that an ordinary run
    stops, from the model's own molecular dynamics), error (a multiple of sigma that bounds the error). All of it, with
    plots, goes into RUN/calibration; an interrupted calibration leaves what was there before.

    Examples:

        equimd calibrate runs/ethanol --data bundled:ethanol --test-data bundled:ethanol
        equimd calibrate runs/aspirin --data held_out.xyz --temperature 500 --blocks 99
        equimd calibrate runs/ethanol --data held_out.xyz --no-halt --json
    """
    from equimd.cli.common import echo_json, log, warn
    from equimd.config import parse_config
    from equimd.data.dataset import notes
    from equimd.run import Run
    from equimd.tasks.calibrate.frames import part_name
    from equimd.tasks.calibrate.settings import CalibrationSettings
    from equimd.tasks.calibrate.task import calibrate as work
    from equimd.tasks.calibrate.task import prepare, save
    from equimd.training.setup import open_data

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    given = {
        "false_alarm_rate": false_alarm_rate, "false_halt_rate": false_halt_rate, "run_length": run_length,
        "temperature": temperature, "ensemble": ensemble, "friction": friction, "tau": tau, "dt": dt,
        "score_every": score_every, "blocks": blocks, "halt": halt, "seed": seed,
    }  # fmt: skip
    settings = CalibrationSettings.parse(given, where="command line")

    def frames(names: list[str], part: str):  # type: ignore[no-untyped-def]
        found = [part_name(n, part) for n in names]
        reading = {
            "labels": labels, "energy_unit": energy_unit, "length_unit": length_unit, "force_unit": force_unit,
            "energy_key": energy_key, "forces_key": forces_key, "mask_fixed": mask_fixed,
        }  # fmt: skip
        opened = open_data(found, parse_config({"data": found, **reading}))
        for note in notes(opened):
            log(note)
        return opened

    prepared = prepare(
        Run.open(run),
        frames(data, "calibration"),
        settings,
        test=frames(test_data, "test") if test_data else None,
        train_data=train_data or (),
    )
    for text in prepared.warnings:
        warn(text)
    _announce(prepared)
    bar = CountedProgress()
    done = work(prepared, lambda stage, n, total: bar(n, total, stage))
    bar.close()
    folder = save(done)
    if done.outcome.refused and settings.halt:
        warn(f"{done.outcome.refused}. Flag and error thresholds are there all the same.")
    if not done.calibration.flag.resolved:
        warn("the frames are so alike in time that the flag rate is uncertain; see its interval")
    log(f"calibration: {folder}")
    if json:
        echo_json({"run": str(run), "data": list(data), **done.calibration.report})
    else:
        typer.echo(_table(done.calibration))


def _announce(prepared: Prepared) -> None:
    """The parts of the frames, and how long it will take about."""
    from equimd.cli.common import log
    from equimd.progress import duration
    from equimd.tasks.calibrate.task import estimate

    sizes, how = prepared.parts.sizes, {"trajectory": "whole trajectories", "blocks": "contiguous in time"}
    log(
        f"frames: {len(prepared.train)} training; {sizes['fit']} to fit, {sizes['select']} to choose the form, "
        f"{sizes['threshold']} for thresholds ({how.get(prepared.parts.method, 'at random')})"
        + (f"; {len(prepared.test)} for the report" if prepared.test is not None else "")
    )
    if prepared.no_halt is None:
        s = prepared.settings
        log(f"own dynamics: {s.blocks} runs of {s.run_length} steps at {prepared.temperature:g} K, {s.ensemble}")
    stages = estimate(prepared)
    each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in stages.items())
    log(f"this takes about {duration(sum(stages.values()))} ({each})")


def _table(calibration: Calibration) -> str:
    """The report in a few lines."""
    from equimd.guard.wording import error_meaning, flag_meaning, halt_meaning

    found = calibration.report
    lines = [f"{'':<10}{'ZMS':>8}{'50 %':>8}{'68 %':>8}{'90 %':>8}{'95 %':>8}{'ENCE':>8}{'area':>8}{'sigma':>14}"]
    for kind, unit in (("forces", "meV/A"), ("energy", "meV")):
        row = found[kind]
        cells = [row["zms"], *(row[f"coverage_{k}"] for k in (50, 68, 90, 95)), row["ence"], row["miscalibration_area"]]
        numbers = "".join(f"{x:>8.3f}" for x in cells)
        lines.append(f"{kind:<10}{numbers}{1e3 * row['sharpness']:>8.1f} {unit}")
    on = found["reported_on"]
    lines.append(f"on {on['n']} {on['frames']} frames, form {found['form']}; ideal: ZMS 1, coverage its level, ENCE 0")
    sentences = [flag_meaning(calibration.flag, calibration), error_meaning(calibration.error)]
    if calibration.halt is not None:
        sentences.insert(0, halt_meaning(calibration.halt, calibration))
    return "\n".join([*lines, "", *sentences])
