"""``python -m tests.physics.random_cells --cells 30 [--seed N] [--out FOLDER]``: crystals, slabs and wires in cells as
nobody would choose them, against the brute force of all images, and their guarded dynamics.

Each is AuCu3 or Cu in a cell that is skewed by other vectors of its lattice, turned, and left- or right-handed; some
are open in one or two directions, with or without a vector there. The model is that of tests/golden/saved.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation

import equimd
from equimd.data.batch import Batch
from equimd.data.frames import Frames
from tests.calculators.test_stress import by_differences
from tests.data.test_neighbors import images
from tests.golden.saved import SAVED

RUN = SAVED / "periodic"
KINDS = {"crystal": (True, True, True), "slab": (True, True, False), "wire": (False, True, False)}
STEPS = 60
#: Relative, as pairs are looked up by vectors rounded to 1e-6 Angstrom; and of stress, as differences give it.
SAME, SAME_STRESS = 1e-5, 1e-5


def random_structure(rng: np.random.Generator, kind: str) -> Atoms:
    """A crystal, a slab or a wire, its atoms a little out of place."""
    atoms = bulk("Cu", "fcc", a=3.75)
    if rng.random() < 0.7:
        atoms = bulk("Cu", "fcc", a=3.75, cubic=True)
        atoms.symbols[0] = "Au"
    atoms.pbc = True
    atoms = atoms.repeat(rng.integers(1, 3, 3))
    atoms.positions += rng.normal(0.0, 0.04, atoms.positions.shape)
    pbc = np.array(KINDS[kind])
    skew = np.eye(3) + np.triu(rng.integers(-2, 3, (3, 3)), 1)
    order = rng.permutation(3)
    cell = (skew @ atoms.cell.array)[order] * rng.choice([-1.0, 1.0], 3)[:, None]
    pbc = pbc[order]
    cell[~pbc] *= rng.choice([0.0, 1.0])
    turn = Rotation.random(random_state=int(rng.integers(1 << 31))).as_matrix()
    return Atoms(atoms.numbers, atoms.positions @ turn, cell=cell @ turn, pbc=pbc)


def by_all_images(batch: Batch, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Batch:
    """The same batch of one structure, with the pairs that trying every image finds, to 1e-6 Angstrom."""
    pairs = sorted(images(positions, cell, pbc, cutoff))
    index = torch.tensor([p[:2] for p in pairs], dtype=torch.int64).reshape(-1, 2).T
    shifts = 1e-6 * torch.tensor([p[2] for p in pairs], dtype=torch.float64).reshape(-1, 3)
    return replace(batch, edge_index=index, edge_shifts=shifts)


def differences(model: equimd.LoadedModel, atoms: Atoms) -> float:
    """The largest difference of energy (eV an atom) and forces (eV/Angstrom) from all images, over what they are."""
    potential = model.potential
    batch = Batch.from_frames(Frames.from_ase([atoms]), potential.cutoff, dtype=torch.float64)
    every = by_all_images(batch, atoms.positions, atoms.cell.complete().array, atoms.pbc, potential.cutoff)
    a, b = potential(batch), potential(every)
    energy = float((a["energy"] - b["energy"]).abs().max()) / len(atoms)
    forces = float((a["forces"] - b["forces"]).abs().max()) / max(float(b["forces"].abs().max()), 1.0)
    return max(energy, forces)


def stress_difference(model: equimd.LoadedModel, atoms: Atoms) -> float:
    """The largest difference, eV/Angstrom^3, of the stress from what energies of strained cells give."""
    atoms = atoms.copy()
    atoms.calc = model.calculator()
    return float(np.abs(atoms.get_stress(voigt=False) - by_differences(model, atoms)).max())


def tried(seed: int, folder: Path) -> list[str]:
    """What is wrong with one structure; nothing if all is as it should be."""
    rng = np.random.default_rng(seed)
    atoms = random_structure(rng, list(KINDS)[seed % len(KINDS)])
    model = equimd.LoadedModel(equimd.load(RUN).potential.converted(torch.float64))
    wrong = []
    if (found := differences(model, atoms)) > SAME:
        wrong.append(f"energy or forces differ by {found:.2g}")
    if all(atoms.pbc) and (found := stress_difference(model, atoms)) > SAME_STRESS:
        wrong.append(f"stress differs by {found:.2g} eV/A^3")
    done = equimd.simulate(
        RUN, atoms, out=folder / str(seed), steps=STEPS, temperature=50, dt=1.0, uq_threshold="off", compile="off",
        seed=seed,
    )  # fmt: skip
    if done.halted:
        wrong.append(f"halted: {done}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.physics.random_cells", description=__doc__)
    parser.add_argument("--cells", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the first; structure k has seed + k")
    parser.add_argument("--out", type=Path, help="folder of reliability.json, which takes the counts")
    options = parser.parse_args()
    counts = dict[tuple[str, str], list[int]]()
    with tempfile.TemporaryDirectory(prefix="equimd-cells-") as folder:
        for seed in range(options.seed, options.seed + options.cells):
            wrong = tried(seed, Path(folder))
            count = counts.setdefault(("cells", list(KINDS)[seed % len(KINDS)]), [0, 0])
            count[0] += 1
            count[1] += not wrong
            print(f"--seed {seed} --cells 1: {wrong or 'as it should be'}", file=sys.stderr)
    if options.out:
        from tests.kills.table import save_counts

        command = f"python -m tests.physics.random_cells --cells {options.cells} --seed {options.seed}"
        save_counts({k: (n, good) for k, (n, good) in counts.items()}, options.out, command)
    tries, good = (sum(c[k] for c in counts.values()) for k in (0, 1))
    print(f"{tries} tried, {tries - good} not as they should be")
    return int(good < tries)


if __name__ == "__main__":
    sys.exit(main())
