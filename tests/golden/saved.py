"""How ``saved/`` was made: runs, calibrations and a simulation of an earlier tree that every later one must open.

It is made once and kept: a later tree that reads only what it wrote itself would pass a record whose runs are made
anew with it. Models are trained for seconds on toy data; nothing but size was looked for.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from tests.golden.shell import Shell
from tests.training.toy import WATER, springs, toy_frames

SAVED = Path(__file__).parent / "saved"

SMALL = "--num-layers 2 --num-rbf 6 --num-readout 4 --radial-basis gaussian --compile off --threads 1"
LEARN = "--lr 0.01 --ema-decay 0.9 --warmup-steps 10 --batch-size-train 4"
FRAMES, PRECISE = "--splits 24 8 8 --energy-unit eV", "--num-features 8 --dtype float64"
#: Of each run: data, and how it is trained.
RUNS = {
    "conservative": f"water.xyz {FRAMES} --num-epochs 60 {PRECISE}",
    "lmax1": "bundled:ethanol --subset-size 40 --splits 24 8 8 --num-epochs 6 --num-features 16 --lmax 1",
    "direct": f"water.xyz {FRAMES} --num-epochs 60 --num-features 16 --lmax 1 --forces direct",
    "periodic": f"alloy.xyz {FRAMES} --num-epochs 60 --lmax 1 --cutoff 4.0 {PRECISE}",
    "charged": f"ions.xyz {FRAMES} --num-epochs 20 --num-features 16 --lmax 1 --charge-spin",
    "energy-only": f"mixed.xyz {FRAMES} --num-epochs 20 --forces-weight 0 --energy-weight 1 {PRECISE}",
}
RATES = "--false-alarm-rate 0.05 --false-halt-rate 0.1 --blocks 9 --run-length 40 --threads 1"
CALIBRATIONS = {
    "conservative": f"--data water-new.xyz --temperature 1200 {RATES}",
    "direct": f"--data water-new.xyz --temperature 1200 {RATES}",
    "periodic": f"--data alloy-new.xyz --temperature 600 {RATES}",
}
SIMULATION = (
    "simulate conservative water.start.xyz --temperature 600 --steps 20 --save-every 2 --compile off "
    "--uq-threshold halt --out simulation"
)
#: what only the run itself needed
LEFT_OUT = ("*.png", "checkpoint")
WITH_CHECKPOINT = "lmax1"


def alloy(n: int, seed: int) -> list[Atoms]:
    """Cu3Au in a sheared cell of 4 atoms, rattled, with the energies and forces of ASE's EMT."""
    rng, out = np.random.default_rng(seed), []
    rest = Atoms("AuCu3", np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 3.75, pbc=True)
    rest.set_cell(3.75 * np.eye(3))
    rest.set_cell(rest.cell.array + [[0, 0, 0], [0.2, 0, 0], [0, 0.1, 0]], scale_atoms=True)
    for _ in range(n):
        moved = rest.copy()
        moved.positions += rng.normal(0.0, 0.09, (4, 3))
        moved.calc = EMT()
        labels = {"energy": moved.get_potential_energy(), "forces": moved.get_forces()}
        moved.calc = SinglePointCalculator(moved, **labels)
        out.append(moved)
    return out


def ions(n: int, seed: int) -> list[Atoms]:
    """Water of springs in two electronic states, the second with longer bonds."""
    rng, out = np.random.default_rng(seed), []
    for k in range(n):
        rest = WATER * (1.05 if k % 2 else 1.0)
        x = rest + rng.normal(0.0, 0.05, rest.shape)
        energy, forces = springs(x, rest)
        atoms = Atoms([8, 1, 1], x, info={"charge": k % 2, "spin": 1 + k % 2})
        atoms.calc = SinglePointCalculator(atoms, energy=energy + 10.0 * (k % 2), forces=forces)
        out.append(atoms)
    return out


def write_data(folder: Path) -> None:
    """The data files that runs are trained and calibrated on, and start geometries."""
    ethanol = np.array(
        [[0.01, -0.57, 0.0], [-1.29, 0.23, 0.0], [1.13, 0.31, 0.0], [0.04, -1.21, 0.89], [0.04, -1.21, -0.89],
         [-2.15, -0.43, 0.0], [-1.34, 0.87, 0.89], [-1.34, 0.87, -0.89], [1.97, -0.17, 0.0]]
    )  # fmt: skip
    files: dict[str, Any] = {
        "water.xyz": toy_frames(40, 0).to_ase(),
        "water-new.xyz": toy_frames(80, 7).to_ase(),
        "water-test.xyz": toy_frames(24, 8).to_ase(),
        "mixed.xyz": toy_frames(40, 1, mixed=True, forces=False).to_ase(),
        "ions.xyz": ions(40, 2),
        "alloy.xyz": alloy(40, 3),
        "alloy-new.xyz": alloy(80, 4),
        "alloy-test.xyz": alloy(16, 6),
        "water.start.xyz": Atoms([8, 1, 1], WATER),
        "ion.start.xyz": Atoms([8, 1, 1], WATER, info={"charge": 1, "spin": 2}),
        "alloy.start.xyz": Atoms(alloy(1, 5)[0]),
        "ethanol.start.xyz": Atoms("C2OH6", ethanol),
        "hydrogen.start.xyz": Atoms("H2", [[0.0, 0.0, 0.37], [0.0, 0.0, -0.37]]),
    }
    for name, atoms in files.items():
        write(folder / name, atoms, format="extxyz")


def make(folder: Path) -> None:
    """All of it, into an empty folder."""
    write_data(folder)
    shell = Shell(folder)
    for name, options in RUNS.items():
        _done(shell, "train", "--data", *f"{options} {SMALL} {LEARN}".split(), "--out", name)
    for name, options in CALIBRATIONS.items():
        _done(shell, "calibrate", name, *options.split())
    _done(shell, *SIMULATION.split())
    for pattern in LEFT_OUT:
        for path in list(folder.rglob(pattern)):
            if path.is_dir() and path.parent.name != WITH_CHECKPOINT:
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
    for path in [p for p in folder.rglob("*") if p.suffix in (".json", ".yaml")]:
        path.write_text(path.read_text().replace(f"{shell.folder}/", ""))  # absolute paths are of this folder
    for name in set(RUNS) - {"conservative", WITH_CHECKPOINT}:
        (folder / name / "last.safetensors").unlink()
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _done(shell: Shell, *words: str) -> None:
    result = shell.run(*words)
    if result["exit_code"]:
        raise SystemExit(f"{' '.join(words)}\n{result['stderr']}")
    print(words[:2], [line for line in result["stderr"] if "warning" in line])
