"""NequIP as a worker: l_max 1, 64 features, 3 layers, no odd scalars; see worker.py for the protocol.

Training: its model in training-time compile mode, energy and force loss, AdamW. Dynamics: the model exported ahead of
time for ASE (what ``nequip-compile --mode aotinductor --target ase`` does to a checkpoint), its ASE calculator. Many
replicas: exported for batches, the neighbour list fixed (kinder than its own). ``compile: off`` in a task runs eager.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("NEQUIP_SKIP_AOTI_MODEL_CHECK", "1")  # its check asks for a stress, which a molecule has none of

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from nequip.model import NequIPGNNModel
from nequip.model.inference_models import load_compiled_model
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
from nequip.utils.aot import aot_export_model
from nequip.utils.global_state import get_latest_global_state, set_global_state
from worker import PeerFrames, PeerTask, ase_dynamics, serve, training, verlet

ABOUT = "NequIP, l_max 1, 64 features, 3 layers, 8 Bessel functions, 5 A"
SMALL = 1e-4  # an untrained model would tear the molecule apart


def build(frames: PeerFrames, mode: str, scale: float = 1.0) -> torch.nn.Module:
    """A fresh model in ``eager`` or ``compile`` mode."""
    set_global_state(allow_tf32=False)
    return NequIPGNNModel(
        seed=0,
        model_dtype="float32",
        type_names=types(frames),
        r_max=5.0,
        l_max=1,
        parity=False,
        num_layers=3,
        num_features=64,
        num_bessels=8,
        avg_num_neighbors=float(len(frames.numbers) - 1),
        per_type_energy_scales=scale,
        per_type_energy_shifts=0.0,
        compile_mode=mode,
    )


def types(frames: PeerFrames) -> list[str]:
    """The chemical symbols of the molecule."""
    return [chemical_symbols[z] for z in np.unique(frames.numbers)]


def inputs(frames: PeerFrames, positions: np.ndarray) -> dict[str, torch.Tensor]:
    """One batch of frames, neighbour lists included; positions (B, n, 3)."""
    listed = []
    for x in positions:
        data = from_ase(Atoms(frames.numbers, positions=x, cell=50 * np.eye(3)))
        data = ChemicalSpeciesToAtomTypeMapper(types(frames), {t: t for t in types(frames)})(data)
        listed.append(NeighborListTransform(r_max=5.0)(data))
    return AtomicDataDict.batched_from_list(listed)


def train(frames: PeerFrames, task: dict[str, Any]) -> PeerTask:
    """A training step on ``batch`` frames."""
    eager = task.get("compile") == "off"
    model = build(frames, "eager" if eager else "compile").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def predict(given: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        out = model(dict(given))
        return out[AtomicDataDict.TOTAL_ENERGY_KEY].squeeze(-1), out[AtomicDataDict.FORCE_KEY]

    step = training(frames, task["batch"], lambda x: inputs(frames, x), predict, optimizer)
    how = "eager" if eager else "compiled"
    return PeerTask(step, task["batch"], f"{ABOUT}, {how}", count(model))


def dynamics(frames: PeerFrames, task: dict[str, Any]) -> PeerTask:
    """A step of dynamics of one molecule or of ``batch`` replicas."""
    target = COMPILE_TARGET_DICT["ase" if task["batch"] == 1 else "batch"]
    model = build(frames, "eager", SMALL).eval()
    path = export(model, target, inputs(frames, frames.positions[:1]))
    if task["batch"] == 1:
        calculator = NequIPCalculator.from_compiled_model(path, chemical_species_to_atom_type_map=True)
        about = f"{ABOUT}, compiled ahead of time, NequIPCalculator, ASE VelocityVerlet"
        return PeerTask(ase_dynamics(frames, calculator), 1, about, count(model))
    compiled, _ = load_compiled_model(str(path), "cpu", target["input"], target["output"])
    batch = inputs(frames, frames.positions[: task["batch"]])

    def forces(positions: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(positions).reshape(-1, 3)
        found = compiled({**batch, AtomicDataDict.POSITIONS_KEY: x})[AtomicDataDict.FORCE_KEY]
        return found.numpy().reshape(positions.shape).astype(float)

    step = verlet(frames, task["batch"], forces)
    return PeerTask(step, task["batch"], f"{ABOUT}, compiled ahead of time, one batch", count(model))


def export(model: torch.nn.Module, target: dict[str, Any], data: dict[str, torch.Tensor]) -> Path:
    """The model compiled ahead of time as ``nequip-compile`` does it; it takes a checkpoint, which there is none of."""
    folder = tempfile.TemporaryDirectory(prefix="nequip-export-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "model.nequip.pt2"
    metadata = {**model.metadata, **get_latest_global_state(only_metadata_related=True)}
    metadata = {k: str(int(v)) if isinstance(v, bool) else str(v) for k, v in metadata.items()}
    from nequip.utils.aoti_metadata import NEQUIP_AOTI_INPUTS_KEY, NEQUIP_AOTI_OUTPUTS_KEY, serialize_aoti_keys

    metadata[NEQUIP_AOTI_INPUTS_KEY] = serialize_aoti_keys(target["input"])
    metadata[NEQUIP_AOTI_OUTPUTS_KEY] = serialize_aoti_keys(target["output"])
    names = {"graph": "num_frames", "node": "num_nodes", "edge": "num_edges"}
    dims = {k: torch.export.Dim(name, min=2, max=torch.inf) for k, name in names.items()}
    aot_export_model(
        model=model,
        device="cpu",
        input_fields=target["input"],
        output_fields=target["output"],
        data=target["data_settings"](data),
        batch_map=target["batch_map_settings"](dims),
        output_path=str(path),
        inductor_configs={"aot_inductor.metadata": metadata},
    )
    return path


def count(model: torch.nn.Module) -> int:
    """Weights of a model."""
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    serve({"train": train, "md": dynamics}, ("nequip", "e3nn", "ase"))
