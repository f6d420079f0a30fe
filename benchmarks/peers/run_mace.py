"""MACE as a worker: 128x0e + 128x1o, 2 interactions, l_max 3, correlation 3, its defaults; see worker.py.

Training: its model, energy and force loss, AdamW, eager (it has no compiled training). Dynamics: its ASE calculator in
compiled mode, eager with ``compile: off`` in the task. Many replicas: the eager model on one batch, the neighbour list
fixed (kinder than its own).
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # e3nn 0.4.4 keeps its constants in a pickle

import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from mace import data as mace_data
from mace.calculators import MACECalculator
from mace.modules import RealAgnosticResidualInteractionBlock, ScaleShiftMACE
from mace.tools import AtomicNumberTable, torch_geometric
from worker import PeerFrames, PeerTask, ase_dynamics, serve, training, verlet

ABOUT = "MACE, 128x0e + 128x1o, 2 interactions, l_max 3, correlation 3, 8 Bessel functions, 5 A"
SMALL = 1e-4  # an untrained model would tear the molecule apart


def build(frames: PeerFrames, scale: float = 1.0) -> torch.nn.Module:
    """A fresh model, with the defaults of MACE's own training command."""
    elements = np.unique(frames.numbers)
    return ScaleShiftMACE(
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=RealAgnosticResidualInteractionBlock,
        interaction_cls_first=RealAgnosticResidualInteractionBlock,
        num_interactions=2,
        num_elements=len(elements),
        hidden_irreps=o3.Irreps("128x0e + 128x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(elements)),
        avg_num_neighbors=float(len(frames.numbers) - 1),
        atomic_numbers=elements.tolist(),
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=scale,
        atomic_inter_shift=0.0,
    )


def inputs(frames: PeerFrames, positions: np.ndarray) -> dict[str, torch.Tensor]:
    """One batch of frames, neighbour lists included; positions (B, n, 3)."""
    table = AtomicNumberTable(np.unique(frames.numbers).tolist())
    listed = []
    for x in positions:
        keys = mace_data.KeySpecification(info_keys={}, arrays_keys={})
        config = mace_data.config_from_atoms(Atoms(frames.numbers, positions=x), key_specification=keys)
        listed.append(mace_data.AtomicData.from_config(config, z_table=table, cutoff=5.0))
    return torch_geometric.Batch.from_data_list(listed).to_dict()


def train(frames: PeerFrames, task: dict[str, Any]) -> PeerTask:
    """A training step on ``batch`` frames."""
    model = build(frames).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, amsgrad=True)

    def predict(given: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        out = model({k: v.clone() if torch.is_tensor(v) else v for k, v in given.items()}, training=True)
        return out["energy"], out["forces"]

    step = training(frames, task["batch"], lambda x: inputs(frames, x), predict, optimizer)
    return PeerTask(step, task["batch"], f"{ABOUT}, eager", count(model))


def dynamics(frames: PeerFrames, task: dict[str, Any]) -> PeerTask:
    """A step of dynamics of one molecule or of ``batch`` replicas."""
    model = build(frames, SMALL).eval()
    parameters = count(model)
    if task["batch"] == 1:
        mode = None if task.get("compile") == "off" else "default"
        calculator = MACECalculator(models=model, device="cpu", default_dtype="float32", compile_mode=mode)
        how = "eager" if mode is None else "compiled"
        about = f"{ABOUT}, {how}, MACECalculator, ASE VelocityVerlet"
        return PeerTask(ase_dynamics(frames, calculator), 1, about, parameters)
    batch = inputs(frames, frames.positions[: task["batch"]])
    for p in model.parameters():
        p.requires_grad = False

    def forces(positions: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(positions).to(torch.float32).reshape(-1, 3)
        found = model({**batch, "positions": x})["forces"].detach().numpy()
        return found.reshape(positions.shape).astype(float)

    return PeerTask(verlet(frames, task["batch"], forces), task["batch"], f"{ABOUT}, eager, one batch", parameters)


def count(model: torch.nn.Module) -> int:
    """Weights of a model."""
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    serve({"train": train, "md": dynamics}, ("mace-torch", "e3nn", "ase"))
