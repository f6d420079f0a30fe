"""Arguments and options that commands which use a trained model share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Run = Annotated[Path, typer.Argument(help="run folder of the model")]
Weights = Annotated[Literal["best", "last"], typer.Option("--weights", help="best by validation, or the last ones")]
BatchSize = Annotated[int, typer.Option("--batch-size-inference", min=1, help="structures computed at once")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or auto")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; by default all cores")]
Uncertainty = Annotated[
    bool, typer.Option("--uncertainty/--no-uncertainty", help="of a calibrated run, sigmas of energies and forces")
]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]

# how data are read, for every command that reads them
Labels = Annotated[
    Literal["revised", "md17"], typer.Option("--labels", help="of an rMD17 file: revised, or md17 for the original")
]
EnergyUnit = Annotated[
    str | None,
    typer.Option("--energy-unit", help="of a file that states none: eV, meV, kcal/mol, kJ/mol, Hartree"),
]
LengthUnit = Annotated[str | None, typer.Option("--length-unit", help="length unit of such a file: Angstrom, nm, Bohr")]
ForceUnit = Annotated[
    str | None, typer.Option("--force-unit", help="of the forces, if not energy/length: Hartree/Bohr, eV/Angstrom ...")
]
EnergyKey = Annotated[
    str | None, typer.Option("--energy-key", help="column of the energies, where several could be meant")
]
ForcesKey = Annotated[
    str | None, typer.Option("--forces-key", help="column of the forces, where several could be meant")
]
MaskFixed = Annotated[bool, typer.Option("--mask-fixed", help="atoms that a file holds fixed have no force label")]


def set_threads(threads: int | None) -> None:
    """Use that many CPU threads; None leaves torch's default."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
