"""``equimd evaluate``: errors of a trained model on frames with labels, and how well it knows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from equimd.cli.arguments import (
    BatchSize,
    Device,
    EnergyKey,
    EnergyUnit,
    ForcesKey,
    ForceUnit,
    Json,
    Labels,
    LengthUnit,
    MaskFixed,
    Run,
    Threads,
    Uncertainty,
    Weights,
    set_threads,
)
from equimd.progress import CountedProgress

if TYPE_CHECKING:
    from equimd.calculators import LoadedModel
    from equimd.data.dataset import Dataset
    from equimd.tasks.evaluate import Uncertainties


def evaluate(
    run: Run,
    data: Annotated[list[str], typer.Option("--data", help="frames with energies and forces; may be repeated")],
    weights: Weights = "best",
    labels: Labels = "revised",
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    force_unit: ForceUnit = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    mask_fixed: MaskFixed = False,
    display_unit: Annotated[
        Literal["meV", "kcal/mol"], typer.Option("--display-unit", help="of the errors; --json is always in meV")
    ] = "meV",
    uncertainty: Uncertainty = True,
    uncertainty_frames: Annotated[
        int, typer.Option("--uncertainty-frames", min=0, help="at most so many, taken evenly; 0 for all")
    ] = 1000,
    batch_size: BatchSize = 50,
    device: Device = "auto",
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="write all frames with predictions, labels and sigmas, extxyz")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG of predicted against true values")] = None,
    json: Json = False,
) -> None:
    """Measure the errors of a trained potential: overall, per element, and the frames where it is worst.

    Of a run that `equimd calibrate` went over, also how well its sigmas match those errors: mean squared z (ZMS, ideal
    1), the share of errors inside regions that should hold 50, 68, 90 and 95 %, negative log likelihood and CRPS (eV,
    eV/A), ENCE (ideal 0), and the rank correlation of sigma and error. Exact sigmas of conservative forces cost tens of
    times the predictions themselves.

    Examples:

        equimd evaluate runs/ethanol --data rmd17_ethanol_test_01.npz
        equimd evaluate runs/ethanol --data bundled:ethanol-600K --json
        equimd evaluate runs/ethanol --data test.extxyz --plot parity.png --out predicted.extxyz
        equimd evaluate runs/ethanol --data test.extxyz --no-uncertainty
    """
    from equimd import plots
    from equimd.calculators import load
    from equimd.cli.common import echo_json, log, warn
    from equimd.config import parse_config
    from equimd.data.dataset import notes
    from equimd.guard.sigmas import table as sigma_table
    from equimd.machine import choose_device
    from equimd.tasks.evaluate import evaluate as measure
    from equimd.tasks.evaluate import table, write_evaluated
    from equimd.training.setup import open_test_data

    settings = {
        "data": data, "labels": labels, "energy_unit": energy_unit, "length_unit": length_unit,
        "force_unit": force_unit, "energy_key": energy_key, "forces_key": forces_key, "mask_fixed": mask_fixed,
    }  # fmt: skip
    set_threads(threads)
    model = load(run, which=weights, device=str(choose_device(device)))
    with_sigmas = model.gives_uncertainty("auto" if uncertainty else False)
    frames = open_test_data(parse_config(settings))
    for note in notes(frames):
        log(note)
    found = measure(model, frames, batch_size=batch_size)
    known = _uncertainties(model, frames, uncertainty_frames, batch_size) if with_sigmas else None
    summary = found.summary() if known is None else known.join(found.summary())
    if summary["n_known_frames"]:
        warn(f"{summary['n_known_frames']} of these frames were used in training or validation: the errors flatter")
    if not model.has_forces:
        warn("the model was trained on energies alone: it gives no forces")
    if plot is not None:
        plots.parity(found, plot, title=f"{run}: {summary['n_frames']} frames")
        log(f"plot: {plot}")
    if out is not None:
        write_evaluated(out, frames, found, known)
        log(f"wrote {summary['n_frames']} frames to {out}")
    if json:
        echo_json({"run": str(run), "data": list(data), **summary})
        return
    typer.echo(table(summary, display_unit))
    if known is not None:
        typer.echo(sigma_table(summary["uncertainty"]))


def _uncertainties(model: LoadedModel, frames: Dataset, max_frames: int, batch_size: int) -> Uncertainties:
    """With a progress bar: it is the slow part."""
    from equimd.tasks.evaluate import uncertainties

    bar = CountedProgress("frames")
    try:
        return uncertainties(
            model,
            frames,
            max_frames=max_frames,
            batch_size=batch_size,
            progress=lambda done, total: bar(done, total, "uncertainties"),
        )
    finally:
        bar.close()
