"""``equimd predict``: energy and forces of the structures in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def predict(
    run: Annotated[Path, typer.Argument(help="run folder of the model")],
    structures: Annotated[Path, typer.Argument(help="file of structures: xyz, extxyz, or anything ASE reads")],
    out: Annotated[
        Path | None, typer.Option("--out", help="write the structures with energies and forces, extxyz")
    ] = None,
    weights: Annotated[
        Literal["best", "last"], typer.Option("--weights", help="best by validation, or the last ones")
    ] = "best",
    batch_size: Annotated[int, typer.Option("--batch-size-inference", min=1, help="structures computed at once")] = 50,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Energy, and the force on each atom, of every structure in a file.

    Examples:

        equimd predict runs/ethanol ethanol.xyz
        equimd predict runs/ethanol frames.extxyz --out predicted.extxyz
        equimd predict runs/ethanol ethanol.xyz --json
    """
    from equimd.calculator import load, write_predictions
    from equimd.cli.common import echo_json, log, warn
    from equimd.structures import read_structures
    from equimd.train.loop import choose_device

    model = load(run, which=weights, device=str(choose_device(device)))
    atoms = read_structures(structures)
    predictions = model.predict(atoms, batch_size=batch_size)
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


def _entry(p: Any) -> dict[str, Any]:
    """One structure by the contract; the uncertainties only of a calibrated run."""
    entry = {"energy_eV": p.energy, "forces_eV_per_A": p.forces}
    if p.energy_std is not None:
        entry["energy_std_eV"] = p.energy_std
    if p.forces_std is not None:
        entry["forces_std_eV_per_A"] = p.forces_std
    return entry


def _text(number: int, atoms: Any, p: Any) -> str:
    lines = [f"structure {number}: {atoms.get_chemical_formula()}, energy {p.energy:.6f} eV"]
    if p.forces is not None:
        lines.append(f"{'atom':>6}{'':>4}{'Fx':>12}{'Fy':>12}{'Fz':>12}  eV/A")
        for i, (symbol, force) in enumerate(zip(atoms.symbols, p.forces, strict=True)):
            lines.append(f"{i:>6}{symbol:>4}" + "".join(f"{x:>12.5f}" for x in force))
    return "\n".join(lines)
