"""Each integrator against theory, against reversal, and velocity Verlet against ASE's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet as AseVelocityVerlet

from equimd.data.system import System
from equimd.errors import ConfigError
from equimd.md.integrators import Integrator, Langevin, NoseHoover, VelocityVerlet
from equimd.md.simulation import Simulation
from equimd.md.state import kinetic_energy, maxwell_boltzmann
from equimd.units import ACCELERATION, KB
from tests.potentials import MorseMolecule, Oscillators, methanol, water

from .test_state import angular_momentum


def start(molecule: MorseMolecule, integrator: Integrator, replicas: int, temperature: float = 300.0) -> Simulation:
    x = molecule.reference.expand(replicas, -1, -1).clone()
    v = maxwell_boltzmann(molecule.system, x, temperature, seed=1, replicas=range(replicas), bath=False)
    return Simulation.start(molecule.system, integrator, molecule, x, v, dof=3 * molecule.system.n_atoms - 6)


def rms_error(integrator: Integrator, total: float, replicas: int = 8) -> float:
    """Root mean square deviation of the conserved quantity from its first value, eV, over a fixed total time."""
    simulation = start(methanol(), integrator, replicas)
    system = simulation.system
    first = integrator.conserved(system, simulation.state)
    deviations = []
    simulation.run(
        round(total / integrator.dt),
        observer=lambda s: deviations.append(integrator.conserved(system, s.state) - first),
    )
    return float(torch.stack(deviations).square().mean().sqrt())


@pytest.mark.parametrize("make", [VelocityVerlet, lambda dt: NoseHoover(dt, 300.0, 12)], ids=["nve", "nose-hoover"])
def test_error_of_the_conserved_quantity_falls_as_dt_squared(make) -> None:
    errors = [rms_error(make(dt), 200.0) for dt in (0.8, 0.4, 0.2)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.06)
    assert errors[2] < 1e-3


def test_langevin_keeps_energy_minus_heat() -> None:
    """The heat accounts for the bath: what is left is the error of the steps in between, which falls as dt^2."""
    errors = [rms_error(Langevin(dt, 300.0, 0.01), 200.0, replicas=64) for dt in (0.8, 0.4, 0.2)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.25)


def test_without_friction_langevin_conserves_energy() -> None:
    assert rms_error(Langevin(0.2, 300.0, 0.0), 50.0) < 1e-3


@pytest.mark.parametrize("make", [VelocityVerlet, lambda dt: NoseHoover(dt, 300.0, 12)], ids=["nve", "nose-hoover"])
def test_time_reversal(make) -> None:
    simulation = start(methanol(), make(0.5), 3)
    first = simulation.state
    simulation.run(300)
    moved = simulation.state
    assert float((moved.positions - first.positions).abs().max()) > 0.05
    flipped = {k: -v if k == "eta_velocity" else v for k, v in moved.bath.items()}
    simulation.state = replace(moved, velocities=-moved.velocities, bath=flipped)
    simulation.run(600)
    back = simulation.state
    assert float((back.positions - first.positions).abs().max()) < 1e-9
    assert float((back.velocities + first.velocities).abs().max()) < 1e-11


@pytest.mark.parametrize("make", [VelocityVerlet, lambda dt: NoseHoover(dt, 300.0, 12)], ids=["nve", "nose-hoover"])
def test_momentum_and_angular_momentum_stay_zero(make) -> None:
    simulation = start(methanol(), make(0.5), 4)
    simulation.run(2000)
    state, system = simulation.state, simulation.system
    typical = float((system.masses[:, None] * state.velocities).norm(dim=-1).mean())
    assert float((system.masses[:, None] * state.velocities).sum(1).abs().max()) < 1e-11 * typical
    assert float(angular_momentum(system, state.positions, state.velocities).abs().max()) < 1e-10 * typical


def test_any_momentum_is_kept_in_nve() -> None:
    molecule = methanol()
    x = molecule.reference.expand(4, -1, -1).clone()
    v = maxwell_boltzmann(molecule.system, x, 300.0, seed=1, replicas=range(4), bath=True)
    simulation = Simulation.start(molecule.system, VelocityVerlet(0.5), molecule, x, v, dof=18)
    before = (molecule.system.masses[:, None] * v).sum(1), angular_momentum(molecule.system, x, v)
    simulation.run(1000)
    state = simulation.state
    momentum = (molecule.system.masses[:, None] * state.velocities).sum(1)
    torch.testing.assert_close(momentum, before[0], rtol=1e-11, atol=1e-13)
    after = angular_momentum(molecule.system, state.positions, state.velocities)
    torch.testing.assert_close(after, before[1], rtol=1e-10, atol=1e-12)


class _Ase(Calculator):
    """The analytic molecule for ASE."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, molecule: MorseMolecule) -> None:
        super().__init__()
        self.molecule = molecule

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        energy, forces = self.molecule(torch.tensor(self.atoms.positions)[None])
        self.results = {"energy": float(energy[0]), "forces": forces[0].numpy()}


def test_velocity_verlet_is_ases() -> None:
    molecule, dt = methanol(), 0.5
    simulation = start(molecule, VelocityVerlet(dt), 1)
    masses = molecule.system.masses.numpy()
    atoms = Atoms(molecule.system.numbers.numpy(), simulation.state.positions[0].numpy(), masses=masses)
    # ASE's unit of time is Angstrom sqrt(amu/eV); conversion by our own constants, so that only the steps are compared
    fs = math.sqrt(ACCELERATION)
    assert fs == pytest.approx(units.fs, rel=1e-6)
    atoms.set_velocities(simulation.state.velocities[0].numpy() / fs)
    atoms.calc = _Ase(molecule)
    AseVelocityVerlet(atoms, timestep=dt * fs).run(500)
    simulation.run(500)
    np.testing.assert_allclose(simulation.state.positions[0].numpy(), atoms.positions, rtol=0, atol=1e-10)
    np.testing.assert_allclose(simulation.state.velocities[0].numpy(), atoms.get_velocities() * fs, rtol=0, atol=1e-11)


def test_baoab_samples_harmonic_oscillators_as_theory_says() -> None:
    """<q^2> = kT/(m w^2) exactly, <p^2>/m = kT (1 - w^2 dt^2/4): Leimkuhler and Matthews 2013, up to w dt = 1.5."""
    dt, temperature, replicas = 1.0, 300.0, 3000
    wdt = torch.tensor([0.3, 0.7, 1.1, 1.5], dtype=torch.float64)
    system = System.build([1, 6, 8, 17])
    stiffness = system.masses * (wdt / dt).square() / ACCELERATION
    integrator = Langevin(dt, temperature, friction=0.25, seed=5)
    width = (KB * temperature / stiffness).sqrt()[:, None]
    x = torch.randn(replicas, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * width
    v = maxwell_boltzmann(system, x, temperature, seed=5, replicas=range(replicas), bath=True)
    simulation = Simulation.start(system, integrator, Oscillators(stiffness), x, v, dof=12)
    simulation.run(40)  # forget the start: 40 steps are 10 relaxation times
    q2, p2 = [], []
    for _ in range(60):
        simulation.run(simulation.state.step + 10)  # 2.5 relaxation times apart
        q2.append((simulation.state.positions.square() * stiffness[:, None]).mean((0, 2)))
        p2.append((simulation.state.velocities.square() * (system.masses / ACCELERATION)[:, None]).mean((0, 2)))
    kt = KB * temperature
    samples = 60 * replicas * 3 / 2  # some correlation is left between the times
    tolerance = 4 * math.sqrt(2 / samples)
    np.testing.assert_allclose(torch.stack(q2).mean(0) / kt, np.ones(4), rtol=tolerance)
    np.testing.assert_allclose(torch.stack(p2).mean(0) / kt, 1 - wdt.square().numpy() / 4, rtol=tolerance)


def test_nose_hoover_kinetic_energy_is_canonical() -> None:
    """A coupled anharmonic molecule: E_kin ~ Gamma(f/2, kT), from runs that start far too cold."""
    from scipy.stats import gamma, kstest

    molecule, replicas, temperature = water(), 400, 500.0
    integrator = NoseHoover(0.5, temperature, 3, tau=20.0)
    simulation = start(molecule, integrator, replicas, temperature=150.0)
    first = integrator.conserved(simulation.system, simulation.state)
    simulation.run(3000)
    kinetic = []
    for _ in range(10):
        simulation.run(simulation.state.step + 400)
        kinetic.append(kinetic_energy(molecule.system, simulation.state.velocities))
    sample = torch.stack(kinetic).flatten().numpy() / (KB * temperature)
    distribution = gamma(1.5)
    assert sample.mean() == pytest.approx(distribution.mean(), rel=0.06)
    assert sample.var() == pytest.approx(distribution.var(), rel=0.15)
    assert kstest(sample, distribution.cdf).pvalue > 1e-3
    drift = integrator.conserved(simulation.system, simulation.state) - first
    assert float(drift.abs().max()) < 0.02


def test_bad_settings_are_refused() -> None:
    for make in (
        lambda: VelocityVerlet(0.0),
        lambda: VelocityVerlet(math.nan),
        lambda: Langevin(0.5, 0.0),
        lambda: Langevin(-0.5, 300.0),
        lambda: Langevin(0.5, 300.0, -1.0),
        lambda: NoseHoover(0.5, 300.0, 0),
        lambda: NoseHoover(0.5, 300.0, 3, order=2),
    ):
        with pytest.raises(ConfigError):
            make()


def test_higher_order_chains_agree() -> None:
    """Suzuki-Yoshida parts change the error of the chain, not what it is an approximation of."""
    ends = []
    for order in (1, 3, 5):
        simulation = start(water(), NoseHoover(0.1, 300.0, 3, order=order), 2)
        simulation.run(400)
        ends.append(simulation.state.positions)
    assert float((ends[0] - ends[1]).abs().max()) < 1e-4
    assert float((ends[1] - ends[2]).abs().max()) < 1e-6
