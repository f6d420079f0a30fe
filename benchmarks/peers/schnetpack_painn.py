"""Train SchNetPack's own PaiNN on an rMD17 split for a fixed time, and print its test errors as one JSON object.

    python schnetpack_painn.py TRAIN.npz TEST.npz MINUTES [--seed N] [--target MAE --reached FILE]

With a target (meV/Angstrom) it ends when the validation error of the forces is at it, and leaves FILE to say so.

Runs in an environment of its own (schnetpack 2.2), on one thread, and imports nothing of equimd. Settings are
SchNetPack's published rMD17 ones: 128 features, 3 interactions, 20 Gaussian radial functions, 5 A, cosine cutoff,
AdamW 1e-3, loss 0.01 E + 0.99 F in kcal/mol, batch 10, 950 + 50 frames. The learning rate follows a cosine to
zero over the budget and the weights are averaged (EMA 0.995), both kinder to a short budget than its plateau schedule.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import schnetpack as spk
import schnetpack.properties as names
import torch

KCAL = 0.0433641042  # eV
BATCH, EMA, LR, WARMUP = 10, 0.995, 1e-3, 200


def build() -> torch.nn.Module:
    """PaiNN with an energy and a force output."""
    return spk.model.NeuralNetworkPotential(
        representation=spk.representation.PaiNN(
            n_atom_basis=128,
            n_interactions=3,
            radial_basis=spk.nn.GaussianRBF(n_rbf=20, cutoff=5.0),
            cutoff_fn=spk.nn.CosineCutoff(5.0),
        ),
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[
            spk.atomistic.Atomwise(n_in=128, output_key="energy"),
            spk.atomistic.Forces(energy_key="energy", force_key="forces"),
        ],
    )


def inputs(numbers: np.ndarray, positions: np.ndarray) -> dict[str, torch.Tensor]:
    """A batch in SchNetPack's own keys, all pairs within the cutoff; positions (B, n, 3) of the atoms numbers (n,)."""
    r = torch.tensor(positions, dtype=torch.float32)
    count, n = r.shape[:2]
    distance = torch.cdist(r, r)
    distance[:, range(n), range(n)] = torch.inf
    b, i, j = torch.nonzero(distance < 5.0, as_tuple=True)
    return {
        names.Z: torch.tensor(numbers).repeat(count),
        names.R: r.reshape(-1, 3),
        names.idx_m: torch.arange(count).repeat_interleave(n),
        names.n_atoms: torch.full((count,), n),
        names.idx_i: b * n + i,
        names.idx_j: b * n + j,
        names.offsets: torch.zeros(len(i), 3),
        names.cell: torch.zeros(count, 3, 3),
        names.pbc: torch.zeros(count * 3, dtype=torch.bool),
    }


class SchnetpackFrames:
    """One file, in the units it has."""

    def __init__(self, path: str, offset: float | None = None) -> None:
        data = np.load(path)
        self.numbers = data["nuclear_charges"].astype(int)
        self.positions, self.energies, self.forces = data["coords"], data["energies"], data["forces"]
        self.offset = offset

    def batch(self, rows: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Inputs, energies and forces of some rows."""
        energies = torch.tensor(self.energies[rows] - self.offset, dtype=torch.float32)
        return (
            inputs(self.numbers, self.positions[rows]),
            energies,
            torch.tensor(self.forces[rows], dtype=torch.float32).reshape(-1, 3),
        )


def errors(model: torch.nn.Module, data: SchnetpackFrames, rows: np.ndarray) -> tuple[float, float]:
    """Mean absolute errors: energy in meV, force components in meV/Angstrom."""
    model.eval()
    energy = force = 0.0
    for k in range(0, len(rows), 50):
        batch, e, f = data.batch(rows[k : k + 50])
        out = model(batch)
        energy += (out["energy"].detach() - e).abs().sum().item()
        force += (out["forces"].detach() - f).abs().sum().item()
    model.train()
    return 1e3 * KCAL * energy / len(rows), 1e3 * KCAL * force / (len(rows) * 3 * len(data.numbers))


def main() -> None:
    """Train for the budget, then test the averaged weights."""
    parser = argparse.ArgumentParser()
    for name in ("train", "test"):
        parser.add_argument(name)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=float, default=0.0)
    parser.add_argument("--reached", type=Path)
    given = parser.parse_args()
    train, test, minutes = SchnetpackFrames(given.train), SchnetpackFrames(given.test), given.minutes
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    order = np.random.default_rng(given.seed).permutation(1000)
    rows, held = order[:950], order[950:]
    train.offset = test.offset = float(train.energies[rows].mean())
    model = build()
    averaged = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    began, step, epoch = time.time(), 0, 0
    while (used := (time.time() - began) / (60 * minutes)) < 1:
        for k in range(0, len(rows), BATCH):
            used = min(1.0, (time.time() - began) / (60 * minutes))
            for group in optimizer.param_groups:
                group["lr"] = LR * min(1, step / WARMUP) * max(0.5 * (1 + math.cos(math.pi * used)), 1e-3)
            batch, e, f = train.batch(rows[k : k + BATCH])
            out = model(batch)
            loss = 0.01 * ((out["energy"] - e) ** 2).mean() + 0.99 * ((out["forces"] - f) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            step += 1
            with torch.no_grad():
                for a, b in zip(averaged.parameters(), model.parameters(), strict=True):
                    a.lerp_(b, 1 - EMA)
        epoch += 1
        np.random.default_rng(epoch).shuffle(rows)
        if epoch % (5 if given.target else 20) == 0:
            e_mae, f_mae = errors(averaged, train, held)
            print(f"epoch {epoch}, {time.time() - began:.0f} s: {e_mae:.2f} meV, {f_mae:.2f} meV/A", file=sys.stderr)
            if f_mae <= given.target:
                given.reached.touch()
                return
    e_mae, f_mae = errors(averaged, test, np.arange(len(test.energies)))
    found = {"energy_mae_meV": e_mae, "forces_mae_meV_per_A": f_mae, "steps": step, "version": spk.__version__}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
