"""``equimd evaluate``: errors of a trained model on frames with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(help="run folder of the model")],
    data: Annotated[list[str], typer.Option("--data", help="frames with energies and forces; may be repeated")],
    weights: Annotated[
        Literal["best", "last"], typer.Option("--weights", help="best by validation, or the last ones")
    ] = "best",
    labels: Annotated[
        Literal["revised", "md17"], typer.Option("--labels", help="which labels of an rMD17 file")
    ] = "revised",
    energy_unit: Annotated[
        str | None, typer.Option("--energy-unit", help="unit of the energies, where the file states none")
    ] = None,
    length_unit: Annotated[
        str | None, typer.Option("--length-unit", help="unit of the lengths, where the file states none")
    ] = None,
    display_unit: Annotated[
        Literal["meV", "kcal/mol"], typer.Option("--display-unit", help="of the table; --json is always in meV")
    ] = "meV",
    batch_size: Annotated[int, typer.Option("--batch-size-inference", min=1, help="frames computed at once")] = 50,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; by default all cores")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG of predicted against true values")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Measure the errors of a trained potential: overall, per element, and the frames where it is worst.

    Examples:

        equimd evaluate runs/ethanol --data rmd17_ethanol_test_01.npz
        equimd evaluate runs/ethanol --data bundled:ethanol-600K --json
        equimd evaluate runs/ethanol --data test.extxyz --plot parity.png
    """
    from equimd import plots
    from equimd.calculator import load
    from equimd.cli.common import echo_json, log, warn
    from equimd.config import parse_config
    from equimd.evaluate import evaluate as measure
    from equimd.evaluate import table
    from equimd.train.loop import choose_device
    from equimd.train.setup import open_test_data

    settings = {"data": data, "labels": labels, "energy_unit": energy_unit, "length_unit": length_unit}
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    model = load(run, which=weights, device=str(choose_device(device)))
    frames = open_test_data(parse_config(settings))
    found = measure(model, frames, batch_size=batch_size)
    summary = found.summary()
    if summary["n_known_frames"]:
        warn(f"{summary['n_known_frames']} of these frames were used in training or validation: the errors flatter")
    if not model.has_forces:
        warn("the model was trained on energies alone: it gives no forces")
    if plot is not None:
        plots.parity(found, plot, title=f"{run}: {summary['n_frames']} frames")
        log(f"plot: {plot}")
    if json:
        echo_json({"run": str(run), "data": list(data), **summary})
    else:
        typer.echo(table(summary, display_unit))
