"""Compiled force graphs, kept on disk: built once for a configuration, a number of atoms and a block of replicas.

An artefact is a folder of the cache, named by the hash of all that its code depends on: the model's configuration, the
shapes, whether there is a screen, torch's version, the processor, and the sources the graph is traced from. Weights and
molecule are inputs of the graph, so that a model trained further uses the same artefact. The cache is in
``$EQUIMD_CACHE``, else ``$XDG_CACHE_HOME/equimd``, else ``~/.cache/equimd``; it may be deleted at any time.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equimd.data.batch import Batch
from equimd.errors import EquimdError
from equimd.files import cache_place, file_digest, load_tensors, replacing_folder, save_tensors, sha256_of
from equimd.forces import force_graph, native, products
from equimd.forces.force_graph import evaluate_once, force_function, graph_inputs, trace
from equimd.forces.shared_graph import SharedGraph
from equimd.guard import screen
from equimd.guard.limits import Limits
from equimd.guard.score import StepDecision
from equimd.machine import has_compiler, side_by_side
from equimd.model.interface import CompilableModel
from equimd.uq import posterior as uq_posterior

log = logging.getLogger(__name__)

KIND, GRAPH_FILE, ONCE_FILE = "force-graph", "graph.so", "once.safetensors"
LIBRARIES = (".so", ".dylib", ".dll", ".pyd")
#: One thread: a block is sized for the cache of one core, and small products on several threads wait for each other.
OPTIONS: dict[str, Any] = {
    "cpp.threads": 1,
    "cpp.enable_floating_point_contract_flag": "fast",
    "aot_inductor.enable_frame_pointer": False,
    "aot_inductor.enable_line_tables": False,
    "compile_threads": 1,
}


def _source_digest() -> str:
    """Of the files that a graph is traced from, besides the model's."""
    paths = [Path(str(module.__file__)) for module in (force_graph, products, screen, uq_posterior)]
    paths += native.SOURCES
    return sha256_of(path.read_bytes() for path in paths)


#: Of the code as it was imported, whatever happens to the files later.
SOURCES = _source_digest()


def _processor() -> str:
    """The instruction set compiled code may use, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return "\n".join([platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability(), *told])


def artefact_key(model: CompilableModel, inputs: Mapping[str, Tensor], count: int, n_atoms: int) -> str:
    """The hash that names an artefact."""
    content = {
        "model": model.graph_key(),
        "dtype": str(model.dtype),
        "inputs": {k: (list(v.shape), str(v.dtype)) for k, v in inputs.items()},
        "block": [count, n_atoms],
        "files": [GRAPH_FILE, "library"],
        "options": OPTIONS,
        "torch": torch.__version__,
        "platform": [platform.system(), _processor()],
        "sources": SOURCES,
    }
    return sha256_of([json.dumps(content, sort_keys=True)])[:32]


class CompiledForces:
    """``[[energy, forces, features, sound[, screen]], ...] = compiled(blocks)``, a block positions (A, n, 3) float64.

    Agrees with the eager network to rounding. Blocks are computed side by side, one on each of torch's threads. Make
    one with :func:`load` or :func:`build`.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Tensor]) -> None:
        attributes, meta = load_tensors(folder / ONCE_FILE, KIND)
        if file_digest(folder / GRAPH_FILE) != meta["library"]:
            raise RuntimeError(f"{GRAPH_FILE} is damaged")  # loading half a library kills the process
        self._constants = evaluate_once(meta["once"], attributes, inputs)
        self._graph = SharedGraph(folder / GRAPH_FILE, torch.get_num_threads())
        self.folder = folder

    def __call__(self, blocks: Sequence[Tensor]) -> list[list[Tensor]]:
        return side_by_side(self._graph, [[positions, *self._constants] for positions in blocks])


def _folder(model: CompilableModel, batch: Batch, inputs: Mapping[str, Tensor]) -> Path:
    return cache_place(f"compiled/{artefact_key(model, inputs, batch.num_structures, batch.num_slots)}")


def load(
    model: CompilableModel, batch: Batch, decision: StepDecision | None = None, limits: Limits | None = None
) -> CompiledForces | None:
    """The artefact from the cache; None if there is none. A broken one is removed.

    Args:
        batch: a block of replicas in the dense layout; positions are not read.
    """
    inputs = graph_inputs(model, batch, decision, limits)
    folder = _folder(model, batch, inputs)
    if not folder.is_dir():
        return None
    try:
        return CompiledForces(folder, inputs)
    except (EquimdError, OSError, RuntimeError, KeyError, TypeError, NameError, SyntaxError) as error:
        log.warning("the compiled forces in %s are broken (%s): made anew", folder, str(error).splitlines()[0])
        shutil.rmtree(folder, ignore_errors=True)
        return None


def build(
    model: CompilableModel, batch: Batch, decision: StepDecision | None = None, limits: Limits | None = None
) -> CompiledForces | None:
    """Compile and put into the cache; None, with one line of notice, where that is not possible."""
    if not has_compiler():
        log.warning("no C++ compiler found: the potential runs uncompiled, several times slower")
        return None
    inputs = graph_inputs(model, batch, decision, limits)
    folder = _folder(model, batch, inputs)
    try:
        with replacing_folder(folder) as made:
            _compile(model, batch, decision, inputs, made)
            CompiledForces(made, inputs)  # it loads, else nobody gets to see it
        return CompiledForces(folder, inputs)
    except Exception as error:  # whatever a compiler may raise: there is another way to the same result
        log.warning("the potential could not be compiled and runs uncompiled: %s", str(error).splitlines()[0])
        log.debug("compilation failed", exc_info=True)
        return None


def _library_of(package: Path) -> bytes:
    """The shared library of a package, which is removed."""
    with zipfile.ZipFile(package) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(LIBRARIES))
        library = archive.read(name)
    package.unlink()
    return library


def _compile(
    model: CompilableModel, batch: Batch, decision: StepDecision | None, inputs: Mapping[str, Tensor], folder: Path
) -> None:
    from torch._inductor import aoti_compile_and_package

    count, n = batch.num_structures, batch.num_slots
    # no two atoms in one place: tracing runs the network once
    positions = torch.arange(count * n * 3, dtype=torch.float64).sin().view(count, n, 3).mul(3.0)
    graph = trace(force_function(model, batch, decision), positions, inputs)
    constants = evaluate_once(graph.once, graph.attributes, inputs)
    with torch.no_grad(), warnings.catch_warnings():
        # torch's own use of what torch deprecates
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.export.export(graph.each, (positions, *constants))
        options = OPTIONS | native.inductor_options(model.graph_kernels())
        package = aoti_compile_and_package(program, package_path=str(folder / "graph.pt2"), inductor_configs=options)
    library = _library_of(Path(package))
    (folder / GRAPH_FILE).write_bytes(library)
    meta = {"once": graph.once, "library": sha256_of([library])}
    save_tensors(folder / ONCE_FILE, graph.attributes, meta, KIND)
