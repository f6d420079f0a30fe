"""A driver of i-PI: against a real i-PI over UNIX and INET sockets, with beads over several clients, and halts."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from typer.testing import CliRunner

import equimd
from equimd.calculators.ipi import Address, Driver, Served
from equimd.cli.main import app
from equimd.errors import DataError, RunError
from tests.training.toy import WATER

IPI = shutil.which("i-pi", path=str(Path(sys.executable).parent)) or shutil.which("i-pi")
# ASE leaves a socket that could not connect to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
needs_ipi = pytest.mark.skipif(IPI is None, reason="i-PI is not installed (pip install ipi)")
INPUT = """<simulation verbosity='low' safe_stride='1'>
  <output prefix='run'>
    <properties stride='1' filename='out'> [step, time{{femtosecond}}, conserved{{electronvolt}}, \
potential{{electronvolt}}] </properties>
    <trajectory filename='pos' stride='1' format='xyz'> positions{{angstrom}} </trajectory>
  </output>
  <total_steps>{steps}</total_steps>
  <ffsocket name='equimd' mode='{mode}' pbc='false'><address>{address}</address>{port}<latency>1e-3</latency></ffsocket>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='xyz' units='angstrom'> start.xyz </file>
      {velocities}
    </initialize>
    <forces><force forcefield='equimd'/></forces>
    <motion mode='dynamics'>
      <fixcom>False</fixcom>
      <dynamics mode='nve'><timestep units='femtosecond'> {dt} </timestep></dynamics>
    </motion>
    <ensemble><temperature units='kelvin'> 300 </temperature></ensemble>
  </system>
</simulation>
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Address]]]:
    """Starts an i-PI in ``tmp_path``; ended after the test whatever happens."""
    started: list[subprocess.Popen[str]] = []

    def begin(mode: str = "unix", **values: object) -> tuple[subprocess.Popen[str], Address]:
        if mode == "unix":
            address, port = Address(unix=f"equimd-{uuid.uuid4().hex[:12]}"), ""
        else:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                address = Address(port=free.getsockname()[1])
            port = f"<port>{address.port}</port>"
        settings = {"steps": 5, "beads": 1, "dt": 0.5, "temperature": 300, **values}
        speed = f"<velocities mode='thermal' units='kelvin'> {settings['temperature']} </velocities>"
        settings["velocities"] = speed if settings["temperature"] else ""
        text = INPUT.format(mode=mode, address=address.unix or address.host, port=port, **settings)
        (tmp_path / "input.xml").write_text(text)
        positions = settings.get("positions", WATER)
        lines = [f"{s} {x[0]} {x[1]} {x[2]}" for s, x in zip("OHH", positions, strict=True)]
        header = "3\n# CELL(abcABC): 50 50 50 90 90 90 cell{angstrom} positions{angstrom}"
        (tmp_path / "start.xyz").write_text("\n".join([header, *lines, ""]))
        with (tmp_path / "ipi.log").open("w") as log:
            process = subprocess.Popen([str(IPI), "input.xml"], cwd=tmp_path, stdout=log, stderr=log, text=True)
        started.append(process)
        return process, address

    yield begin
    for process in started:
        process.kill()
        process.wait()


def driver(run: Path, folder: Path, threshold: str = "off") -> Driver:
    atoms = Atoms([8, 1, 1], WATER)
    calculator = equimd.load(run).calculator(on_exceed="halt", threshold=threshold)
    return Driver(calculator, atoms, folder, folder / "flagged.extxyz")


def columns(folder: Path) -> np.ndarray:
    return np.loadtxt(folder / "run.out", ndmin=2)


@needs_ipi
@pytest.mark.parametrize("mode", ["unix", "inet"])
def test_ipi_moves_atoms_on_the_models_forces(run: Path, server: Callable, tmp_path: Path, mode: str) -> None:
    stretched = np.array(WATER)
    stretched[1] += [0.1, 0.0, 0.05]
    process, address = server(mode, temperature=0, positions=stretched, dt=1.0, steps=30)
    served = driver(run, tmp_path).run(address)
    assert process.wait(20) == 0, (tmp_path / "ipi.log").read_text()
    assert served.summary()["status"] == "completed" and served.count == 31
    # the same dynamics as ASE's
    atoms = Atoms([8, 1, 1], stretched)
    atoms.calc = equimd.load(run).calculator()
    energies = [atoms.get_potential_energy()]
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    for _ in range(30):
        dynamics.run(1)
        energies.append(atoms.get_potential_energy())
    told = columns(tmp_path)[:, 3]
    assert np.ptp(energies) > 1e-3
    np.testing.assert_allclose(told - told[0], np.array(energies) - energies[0], atol=2e-5)


@needs_ipi
def test_beads_over_two_clients(run: Path, server: Callable, tmp_path: Path) -> None:
    process, address = server(beads=4, steps=4)
    drivers, found = [driver(run, tmp_path) for _ in range(2)], []
    threads = [threading.Thread(target=lambda d=d: found.append(d.run(address))) for d in drivers]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert process.wait(20) == 0, (tmp_path / "ipi.log").read_text()
    counts = [served.count for served in found]
    assert sum(counts) == 4 * 5 and min(counts) > 0


@needs_ipi
def test_a_halt_ends_ipi_softly(run: Path, server: Callable, tmp_path: Path) -> None:
    process, address = server(steps=5000, temperature=6000)
    served = driver(run, tmp_path, threshold="halt").run(address)
    process.wait(20)
    assert served.halt is not None and served.summary()["status"] == "halted"
    assert process.returncode == 0 and "EXIT" in (tmp_path / "ipi.log").read_text()
    # the refused frame was never a step of i-PI's: its restart is of the last whole one
    restart = (tmp_path / "RESTART").read_text()
    assert f"<step>{served.count - 1}</step>" in restart.replace(" ", "")
    assert len(columns(tmp_path)) == served.count
    frame = read(tmp_path / "flagged.extxyz")
    assert frame.info["action"] == "halt" and frame.info["score"] > frame.info["threshold"]
    assert frame.arrays["responsible"].any()


@needs_ipi
def test_the_command_flags_and_goes_on(run: Path, server: Callable, tmp_path: Path) -> None:
    process, address = server(steps=60, temperature=6000)
    write(tmp_path / "water.xyz", Atoms([8, 1, 1], WATER))
    out = tmp_path / "flagged.extxyz"
    words = ["ipi", run, tmp_path / "water.xyz", "--unix", address.unix, "--uq-threshold", "flag", "--json"]
    words += ["--on-exceed", "flag", "--out", out, "--exit-folder", tmp_path]
    told = CliRunner().invoke(app, [str(w) for w in words])
    assert told.exit_code == 0, told.stderr
    summary = json.loads(told.stdout)
    assert summary["status"] == "completed" and summary["n_structures"] == 61 and summary["n_flagged"] == 1
    assert process.wait(20) == 0 and not (tmp_path / "EXIT").exists()
    assert [f.info["action"] for f in read(out, ":")] == ["flag"]


@needs_ipi
def test_a_halt_is_told_at_once(run: Path, server: Callable, tmp_path: Path) -> None:
    """i-PI, which waits for its client for ever, has ended seconds after a halt of its very first frame."""
    fused = np.array(WATER)
    fused[1] = fused[0] + [0.2, 0.0, 0.0]
    process, address = server(positions=fused)
    client = driver(run, tmp_path, threshold="halt")
    began: list[float] = []
    ask, client._exit = client._exit, lambda: (began.append(time.monotonic()), ask())[0]
    served = client.run(address)
    assert process.wait(20) == 0 and served.halt is not None and served.halt.code == "fused"
    assert time.monotonic() - began[0] < 10
    assert (tmp_path / "RESTART").exists() and served.count == 0


@needs_ipi
def test_the_driver_within_ipi(run: Path, tmp_path: Path) -> None:
    """Its own registration: the same energies as ASE's, and a halt that ends it at once with the reason in the log."""
    from equimd.calculators import ipi_driver

    write(tmp_path / "water.xyz", Atoms([8, 1, 1], WATER))
    text = INPUT.format(mode="unix", address="none", port="", steps=5000, beads=1, dt=0.5, velocities="")
    settings = f"{{run: {run}, structure: water.xyz, threshold: halt}}"
    inside = f"<ffdirect name='equimd'><pes>custom</pes><pes_path>{ipi_driver.__file__}</pes_path>"
    inside += f"<parameters>{settings}</parameters></ffdirect>"
    (tmp_path / "input.xml").write_text(re.sub("<ffsocket.*</ffsocket>", inside, text))
    positions = np.array(WATER)
    positions[1] += [0.0, 0.18, -0.14]
    lines = [f"{s} {x[0]} {x[1]} {x[2]}" for s, x in zip("OHH", positions, strict=True)]
    header = "3\n# CELL(abcABC): 50 50 50 90 90 90 cell{angstrom} positions{angstrom}"
    (tmp_path / "start.xyz").write_text("\n".join([header, *lines, ""]))
    done = subprocess.run([str(IPI), "input.xml"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    frame = read(tmp_path / "flagged.extxyz")
    assert f"force sigma {frame.info['score']:.4g} above {frame.info['threshold']:.4g} eV/A" in done.stdout
    count = frame.info["structure"]
    told, restart = columns(tmp_path), (tmp_path / "RESTART").read_text().replace(" ", "")
    assert len(told) == count and f"<step>{count - 1}</step>" in restart
    atoms = Atoms([8, 1, 1], positions)
    atoms.calc = equimd.load(run).calculator()
    assert told[0, 3] == pytest.approx(atoms.get_potential_energy(), abs=1e-3)


def test_nobody_listens(run: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match="nobody listens"):
        driver(run, tmp_path).run(Address(unix=f"equimd-{uuid.uuid4().hex}"), wait=0.3)
    assert time.monotonic() - began < 20


@needs_ipi
def test_another_number_of_atoms_is_told(run: Path, server: Callable, tmp_path: Path) -> None:
    _, address = server()
    other = driver(run, tmp_path)
    other.atoms = Atoms([8, 1], WATER[:2], calculator=other.calculator)
    with pytest.raises(DataError, match="other atoms than the 2"):
        other.run(address)


def test_a_summary_has_the_keys_of_a_simulation() -> None:
    assert Served().summary().keys() >= {"status", "n_flagged", "halted"}
