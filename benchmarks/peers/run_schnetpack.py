"""SchNetPack's PaiNN as a worker: 128 features, 3 interactions, 20 Gaussians; see worker.py for the protocol.

Training: the atomistic model, loss and AdamW step of SchNetPack's own training, on batches with their neighbour lists
made beforehand. Dynamics of one molecule: SchNetPack's ASE calculator with the fastest of its neighbour lists. Of many
replicas: its model on one batch, the pairs fixed (kinder than its neighbour list).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import schnetpack as spk
import schnetpack.properties as names
import torch
from schnetpack.interfaces import SpkCalculator
from schnetpack_painn import build, inputs
from worker import PeerFrames, PeerTask, ase_dynamics, serve, training, verlet

ABOUT = "SchNetPack PaiNN, 128 features, 3 interactions, 20 Gaussians, 5 A, eager"


def train(frames: PeerFrames, task: dict[str, Any]) -> PeerTask:
    """A training step on ``batch`` frames."""
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def predict(given: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        out = model(dict(given))
        return out["energy"], out["forces"]

    step = training(frames, task["batch"], lambda x: inputs(frames.numbers, x), predict, optimizer)
    return PeerTask(step, task["batch"], ABOUT, sum(p.numel() for p in model.parameters()))


def dynamics(frames: PeerFrames, task: dict[str, Any]) -> PeerTask:
    """A step of dynamics of one molecule or of ``batch`` replicas."""
    model = build()
    with torch.no_grad():  # an untrained model would tear the molecule apart
        for p in model.output_modules[0].parameters():
            p.mul_(1e-4)
    parameters = sum(p.numel() for p in model.parameters())
    if task["batch"] == 1:
        step, name = fastest_calculator(frames, model)
        return PeerTask(step, 1, f"{ABOUT}, SpkCalculator with {name}, ASE VelocityVerlet", parameters)
    model.eval()
    batch = inputs(frames.numbers, frames.positions[: task["batch"]])

    def forces(positions: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(positions).to(torch.float32).reshape(-1, 3)
        found = model({**batch, names.R: x})["forces"].detach().numpy()
        return found.reshape(positions.shape).astype(float)

    return PeerTask(verlet(frames, task["batch"], forces), task["batch"], f"{ABOUT}, one batch", parameters)


def fastest_calculator(frames: PeerFrames, model: torch.nn.Module) -> tuple[Any, str]:
    """ASE dynamics with the neighbour list of SchNetPack that takes least CPU time, and the list's name."""
    found = {}
    for name in ("ASENeighborList", "MatScipyNeighborList", "TorchNeighborList", "VesinNeighborList"):
        kind = getattr(spk.transform, name, None)
        if kind is None:
            continue
        calculator = SpkCalculator(
            model, neighbor_list=kind(cutoff=5.0), energy_unit="eV", position_unit="Ang", dtype=torch.float32
        )
        step = ase_dynamics(frames, calculator)
        for _ in range(20):
            step()
        began = time.process_time()
        for _ in range(40):
            step()
        found[time.process_time() - began] = (step, name)
    return found[min(found)]


if __name__ == "__main__":
    serve({"train": train, "md": dynamics}, ("schnetpack", "ase"))
