"""``equimd ipi``: a trained model as a driver of i-PI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from equimd.cli.arguments import Device, Json, Run
from equimd.cli.completion import OF_SETTINGS, completing
from equimd.errors import EXIT_HALTED


def ipi(
    run: Run,
    structure: Annotated[Path, typer.Argument(metavar="STRUCTURE", help="the molecule, atoms in i-PI's order")],
    unix: Annotated[str | None, typer.Option("--unix", help="address of i-PI's socket in mode 'unix'")] = None,
    host: Annotated[str, typer.Option("--host", help="where i-PI runs, in mode 'inet'")] = "localhost",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="of i-PI")] = 31415,
    uq_threshold: Annotated[
        str | None,
        typer.Option(
            "--uq-threshold",
            help="auto, halt, flag, off (physical checks alone), or 0.15eV/A; by default auto if the run is calibrated",
            autocompletion=completing(OF_SETTINGS["uq_threshold"]),
        ),
    ] = None,
    on_exceed: Annotated[
        Literal["halt", "flag"], typer.Option("--on-exceed", help="end i-PI softly, or write the frame and go on")
    ] = "halt",
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="its name, of several that the run has; by default the first")
    ] = None,
    exit_folder: Annotated[
        Path, typer.Option("--exit-folder", help="folder i-PI runs in: EXIT is written there on a halt")
    ] = Path("."),
    out: Annotated[
        Path, typer.Option("--out", help="extended XYZ that refused and flagged frames are appended to")
    ] = Path("flagged.extxyz"),
    wait: Annotated[float, typer.Option("--wait", min=0, help="seconds for i-PI to come up")] = 60.0,
    device: Device = "auto",
    charge: Annotated[
        int | None, typer.Option("--charge", help="total charge, if the structure states none, e")
    ] = None,
    spin: Annotated[
        int | None, typer.Option("--spin", min=1, help="multiplicity 2S+1, if the structure states none")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of this client")] = 1,
    json: Json = False,
) -> None:
    """Serve energies and forces to i-PI, which moves the atoms: replicas, path integrals, its own ensembles.

    Start i-PI, then this command, once for each structure that is to be computed at the same time. Every frame is
    judged before i-PI gets its forces. Above the threshold, and when atoms fuse or fly apart, i-PI is ended softly: its
    RESTART holds the last whole step. Frames above the flag threshold alone are written, and i-PI goes on.
    From another machine than i-PI's, set exit_on_disconnect='True' in its ffsocket.
    The virial is sent of periodic structures, from conservative models; without one, volumes stay as they are.
    Exit code 3: halted.

    Examples:

        equimd ipi runs/ethanol ethanol.xyz --unix ethanol
        equimd ipi runs/ethanol ethanol.xyz --host node1 --port 31415 --on-exceed flag
    """
    import torch

    from equimd.calculators import load
    from equimd.calculators.ipi import Address, Driver
    from equimd.cli.common import echo_json, log, warn
    from equimd.data.given import structures_of
    from equimd.guard.saved import is_calibrated
    from equimd.machine import choose_device
    from equimd.shown import counted

    torch.set_num_threads(threads)
    atoms = structures_of(structure, charge=charge, spin=spin)[0]
    model = load(run, device=str(choose_device(device)), calibration=calibration)
    if uq_threshold is None and not is_calibrated(run):
        warn(f"the run is not calibrated: the physical checks alone watch; `equimd calibrate {run} --data FRAMES`")
    threshold = uq_threshold or ("auto" if is_calibrated(run) else "off")
    driver = Driver(model.calculator(on_exceed=on_exceed, threshold=threshold), atoms, exit_folder, out)
    address, watched = Address(unix, host, port), driver.served
    if watched.threshold is None:
        log("threshold: off, the physical checks alone watch")
    else:
        low, does = watched.flag_threshold, "ends i-PI" if on_exceed == "halt" else "flags frames"
        flags = "" if low is None else f"flags frames above a force sigma of {low:.3g} eV/A, "
        log(f"threshold: {flags}{does} above a force sigma of {watched.threshold:.3g} eV/A")
    log(f"waiting for i-PI at {address}, {wait:g} s at most")
    served = driver.run(address, wait=wait)
    if json:
        echo_json(served.summary())
    else:
        status, flags = served.summary()["status"], counted(served.n_flagged, "flagged event")
        typer.echo(f"{status}: {counted(served.count, 'structure')}, {flags}")
    if served.halt is not None:
        log(f"halted: {served.halt.what}; the frame is in {out}, i-PI's RESTART holds the last whole step")
        raise typer.Exit(EXIT_HALTED)
