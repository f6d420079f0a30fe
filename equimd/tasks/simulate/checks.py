"""What to say before the first step: a time step too large, forces that conserve nothing, a disk too small."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from equimd.data.system import System
from equimd.md.ensembles import ENSEMBLES

if TYPE_CHECKING:
    from equimd.tasks.simulate.settings import SimulationSettings

SPEED_OF_LIGHT = 2.99792458e-5  # cm/fs
#: Wavenumbers of stretches of hydrogen, cm^-1, by the partner's atomic number: free O-H, N-H, C-H; any other: 3000.
STRETCH = {8: 3700.0, 7: 3500.0, 6: 3100.0}
LARGE_STEP = 0.1  # of the fastest period
_HYDROGEN_MASS = 1.008


def fastest_period(system: System) -> float | None:
    """Period of the fastest stretch of a hydrogen atom, fs; None without hydrogen. Heavier isotopes count as such."""
    numbers = system.numbers.tolist()
    masses = [m for z, m in zip(numbers, system.masses.tolist(), strict=True) if z == 1]
    if not masses:
        return None
    wavenumber = max((STRETCH.get(z, 3000.0) for z in numbers if z != 1), default=4400.0)
    return math.sqrt(min(masses) / _HYDROGEN_MASS) / (SPEED_OF_LIGHT * wavenumber)


def time_step_warning(system: System, dt: float) -> str | None:
    """A sentence if a time step is large for the hydrogen atoms, with the numbers."""
    period = fastest_period(system)
    if period is None or dt <= LARGE_STEP * period:
        return None
    phase = 2.0 * math.pi * dt / period
    what = (
        "more than the largest stable one"
        if phase >= 2.0
        else f"the kinetic energy in it comes out {100 * phase * phase / 4:.0f} % too low"
    )
    return (
        f"a time step of {dt:g} fs is 1/{period / dt:.1f} of the {period:.1f} fs of the fastest stretch of a hydrogen "
        f"atom ({what}): 0.5 fs is safe, above {2 * period / (2 * math.pi):.1f} fs atoms fly apart"
    )


def ensemble_warnings(settings: SimulationSettings, direct: bool) -> list[str]:
    """On constant energy: with direct forces there is none, and from a minimum half the temperature is lost."""
    if not ENSEMBLES[settings.ensemble].constant_energy:
        return []
    out = []
    if direct:
        out.append(
            "direct forces are not the gradient of an energy: in NVE no energy is conserved, and the drift of the "
            "total energy says how far they are from it"
        )
    if settings.relax and not settings.equilibrate and settings.temperature > 0:
        t = settings.temperature
        out.append(
            f"from a minimum, about half the kinetic energy of {t:g} K becomes potential energy: the run will be near "
            f"{t / 2:g} K; --equilibrate 2 brings it to {t:g} K"
        )
    return out


def disk_needed(settings: SimulationSettings, n_atoms: int, watched: bool) -> int:
    """Bytes of the trajectories: float64 positions, float32 velocities, forces and sigmas, float64 observables."""
    frames = settings.n_steps // settings.save_every + 1
    atom = 24 + 12 + 12 + (4 if watched else 0)
    per_frame = atom * n_atoms + 8 * (2 + 4 + (2 if watched else 0))
    text = 150 * n_atoms if settings.extxyz else 0
    return frames * settings.replicas * (per_frame + text)


def disk_note(needed: int, folder: Path) -> tuple[str, str | None]:
    """What will be written and what is free, and a warning if that is not enough."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    note = f"disk: about {size(needed)} of trajectories, {size(free)} free"
    if needed < free:
        return note, None
    return note, f"the trajectories need about {size(needed)}, and {size(free)} are free: a larger --save-every"


def size(count: float) -> str:
    """``3.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
