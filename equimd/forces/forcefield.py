"""Energies and forces of R replicas of one structure from a trained potential, as a force function for the integrators.

The dynamics is in float64; the model computes in its own precision. Positions are taken relative to their centre before
they are rounded to it, so that a molecule that has drifted far away keeps its digits, and energies get their reference
energies in float64.

Small open molecules: all pairs, replicas in blocks small enough for the edge tensors to stay in cache; eager, or as one
compiled graph (:mod:`equimd.forces.compiled`), which takes all pairs of somewhat larger molecules, too, and passes over
those beyond the cutoff. Larger and periodic systems: a neighbour list with a skin, made anew when an atom has moved
half of it, and messages summed in blocks of edges (:mod:`equimd.model.painn.edges`), in time and memory proportional to
the number of atoms; these always run eager, as do models on other devices than the CPU.

Compiled and eager agree to rounding: relative to the largest force, 1e-5 in float32 and 1e-12 in float64. They are not
the same bits, so a run keeps the one it began with.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor

from equimd.data.batch import ALL_PAIRS_MAX_ATOMS, DENSE_MAX_ATOMS, Batch
from equimd.data.system import System
from equimd.errors import ModelError
from equimd.forces.compiled import CompiledForces, build, load
from equimd.forces.skin import SkinList
from equimd.guard.judge import Judge
from equimd.model.interface import CompilableModel, Model
from equimd.notices import doing
from equimd.shown import counted

log = logging.getLogger(__name__)

Compile = Literal["auto", "on", "off"]
Forces = tuple[Tensor, Tensor, dict[str, Tensor]]  # energies, forces, and what else was asked for
#: Bytes of edge tensors in flight that still fit the second-level cache of one core.
CACHE_BYTES = 1 << 20
COMPILED_BYTES = 1 << 18  # compiled, of the filters of one layer, each pair once: those of all layers are kept
CALL_COST = 4.0  # of a compiled call, in atoms whose work takes as long
COMPILE_SECONDS = 60.0  # what compiling takes; two to three times less on an idle machine
SAVED = 0.6  # at least this part of the time of an eager call is saved by the compiled one


def block_size(n_atoms: int, pair_channels: int, itemsize: int) -> int:
    """Replicas evaluated at once in the dense layout: what the model holds for their n^2 pairs fits the cache."""
    return max(1, CACHE_BYTES // (n_atoms * n_atoms * pair_channels * itemsize))


def compiled_block_size(count: int, n_atoms: int, pair_channels: int, itemsize: int, threads: int = 1) -> int:
    """Replicas of one compiled call: a power of two that fits the cache, keeps all threads busy, and leaves few places
    of the last one empty."""
    pairs = max(1, n_atoms * (n_atoms - 1) // 2)
    largest = max(1, COMPILED_BYTES // (pairs * pair_channels * itemsize))
    sizes = [1 << k for k in range(min(largest, count).bit_length())]
    return min(sizes, key=lambda b: math.ceil(math.ceil(count / b) / threads) * (b + CALL_COST / n_atoms))


class ForceField:
    """``energy, forces, extras = field(positions)`` with positions (A, n, 3) in Angstrom.

    Args:
        model: the potential, in evaluation mode; computes on the device and in the precision it is in.
        system: the structure all replicas share.
        charge, spin: of the structure; used by models that see them.
        features: put the pooled features (A, P), eV, into the extras, for scores that need them.
        judge: of what is computed here: put into the extras the "screen" (A,) of its score, eV/Angstrom, and, compiled,
            which frames are "sound" (A,), that is well within its limits.
        block: replicas at once in the dense layout; None: as many as the cache takes.
        replicas: how many the blocks of a compiled call are chosen for; None: those of the first call.
        compile: ``off``: eager. ``on``: compiled, wherever possible. ``auto``: compiled if the cache has the artefact,
            or if ``steps`` are so many that compiling pays.
        steps: how many calls are to be expected; None for not known, that is few.

    Attributes:
        compiled: whether it runs compiled; None before the first call, which decides it, and of large systems.
        dense: whether all pairs are taken, and not a neighbour list.

    Raises:
        ModelError: the model was trained on energies alone, never saw an element, or the charge or multiplicity is out
            of its range.
        ConfigError: the judge is of another model or structure.
    """

    def __init__(
        self,
        model: Model,
        system: System,
        *,
        charge: int = 0,
        spin: int = 0,
        features: bool = False,
        judge: Judge | None = None,
        block: int | None = None,
        replicas: int | None = None,
        compile: Compile = "auto",
        steps: int | None = None,
    ) -> None:
        if not model.has_forces:
            raise ModelError(
                "the model was trained on energies alone: its forces are unreliable", hint="train with a forces weight"
            )
        if judge is not None:
            judge.check_belongs(model, system, charge, spin)
        self.model, self.system, self.features, self.judge = model, system, features, judge
        self.decision, self.limits = (None, None) if judge is None else (judge.decision, judge.limits)
        self.device = model.device
        n = system.n_atoms
        self.dense = not system.periodic and n <= DENSE_MAX_ATOMS
        self._may_compile = self.dense or (not system.periodic and n <= ALL_PAIRS_MAX_ATOMS)
        self.compile: Compile = compile
        self.steps, self.block, self.replicas = steps, block, replicas
        self._given_block = block
        self.compiled: bool | None = None
        self._compiled: CompiledForces | None = None
        self._template = self._structures(1, charge, spin)
        model.check(self._template)
        self.reference = float(model.reference_energy(self._template)[0])
        self._charge_spin = charge, spin
        self._batches: dict[int, Batch] = {1: self._template}
        self._list: SkinList | None = None

    def _structures(self, count: int, charge: int, spin: int) -> Batch:
        """A batch of ``count`` copies of the structure, all but its positions and edges."""
        n, device = self.system.n_atoms, self.device
        numbers = self.system.numbers.to(device)
        cell = torch.zeros(3, 3, dtype=torch.float64) if self.system.cell is None else self.system.cell
        return Batch(
            positions=torch.zeros(count * n, 3, dtype=self.model.dtype, device=device),
            atomic_numbers=numbers.repeat(count),
            batch=torch.arange(count, device=device).repeat_interleave(n),
            n_atoms=torch.full((count,), n, dtype=torch.int64, device=device),
            charge=torch.full((count,), charge, dtype=torch.int64, device=device),
            spin=torch.full((count,), spin, dtype=torch.int64, device=device),
            cell=cell.to(device).expand(count, 3, 3),
            pbc=torch.tensor(self.system.pbc, device=device).expand(count, 3),
            num_slots=n if self.dense else 0,
        )

    def _batch(self, count: int) -> Batch:
        if count not in self._batches:
            self._batches[count] = self._structures(count, *self._charge_spin)
        return self._batches[count]

    def __call__(self, positions: Tensor) -> Forces:
        """Energies (A,) float64 total eV, forces (A, n, 3) float64 eV/Angstrom, and the extras.

        Replicas whose positions are not finite get NaN, and do not disturb the others.
        """
        if self.compiled is None and self._may_compile:
            self._begin(positions)
        if not self.dense:
            return self._with_list(positions)
        blocks = positions.split(self.block or len(positions))
        parts = [self._compute(x) for x in blocks] if self._compiled is None else self._call(blocks)
        if len(parts) == 1:
            return parts[0]
        extras = {k: torch.cat([p[2][k] for p in parts]) for k in parts[0][2]}
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), extras

    def begin(self, positions: Tensor, compile: Compile | None = None) -> None:
        """Decide how all calls are computed, ahead of the first one, or anew with another ``compile``."""
        self.compile = compile or self.compile
        self.block = self._given_block
        self._compiled = self.compiled = None
        if self._may_compile:
            self._begin(positions)

    def _begin(self, positions: Tensor) -> None:
        """Decide how this and all later calls are computed."""
        n, width = self.system.n_atoms, self.model.pair_channels
        itemsize = torch.finfo(self.model.dtype).bits // 8
        given, count = self.block, self.replicas or len(positions)
        self._lay_out(dense=True)
        self.block = given or compiled_block_size(count, n, width, itemsize, torch.get_num_threads())
        if self.compile != "off" and self.device.type == "cpu" and isinstance(self.model, CompilableModel):
            wanted = self.model, self._batch(self.block), self.decision, self.limits
            self._compiled = load(*wanted)
            if self._compiled is None and (self.compile == "on" or self._pays(positions)):
                what = "compiling the potential of %d atoms, %s at a time: one to three minutes, once a molecule"
                log.info(what, n, counted(self.block, "replica"))
                doing("compiling the potential")
                self._compiled = build(*wanted)
        self.compiled = self._compiled is not None
        if not self.compiled:
            self.block = given or block_size(n, width, itemsize)
            self._lay_out(dense=n <= DENSE_MAX_ATOMS)

    def _lay_out(self, *, dense: bool) -> None:
        if self.dense != dense:
            self.dense = dense
            self._batches.clear()

    def _pays(self, positions: Tensor) -> bool:
        """Whether what compiling would save is worth twice what it takes."""
        if not self.steps:
            return False
        block = positions[: self.block]
        doing("timing the potential")
        self._compute(block)  # the first call of all warms up
        start = time.perf_counter()
        self._compute(block)
        eager = (time.perf_counter() - start) * self.steps * math.ceil(len(positions) / len(block))
        return SAVED * eager > 2 * COMPILE_SECONDS

    def _call(self, blocks: Sequence[Tensor]) -> list[Forces]:
        """The compiled graph of each block; one that is not full is filled up with its last replica."""
        count = len(blocks[-1])
        empty = (self.block or 0) - count
        if empty > 0:
            blocks = [*blocks[:-1], torch.cat([blocks[-1], blocks[-1][-1:].expand(empty, -1, -1)])]
        found = cast(CompiledForces, self._compiled)(blocks)
        if empty > 0:
            found[-1] = [x[:count] for x in found[-1]]
        return [self._named(out) for out in found]

    def _named(self, out: list[Tensor]) -> Forces:
        energy, forces, features, sound, *screen = out
        extras = {"features": features} if self.features else {}
        if self.limits is not None:
            extras["sound"] = sound
        if screen:
            extras["screen"] = screen[0]
        return energy, forces, extras

    def _compute(self, positions: Tensor, batch: Batch | None = None) -> Forces:
        """One eager call of the model."""
        batch = self._batch(len(positions)) if batch is None else batch
        centred = positions.detach() - positions.detach().mean(1, keepdim=True)
        x = centred.to(self.device, self.model.dtype).reshape(-1, 3)
        out = self.model.evaluate(replace(batch, positions=x))
        energy, forces, features = out["energy"].to(positions.device), out["forces"], out["features"]
        extras = {"features": features.to(positions.device)} if self.features else {}
        if self.decision is not None:
            extras["screen"] = self.decision.screened(features, batch.n_atoms).to(positions.device)
        return energy, forces.to(positions.device, torch.float64).reshape(positions.shape), extras

    def _with_list(self, positions: Tensor) -> Forces:
        finite = torch.isfinite(positions).all(-1).all(-1)
        if not bool(finite.all()):
            return self._without_broken(positions, finite)
        if self._list is None or not self._list.valid(positions):
            self._list = self._make_list(positions)
        index, shifts = self._list.within(positions)
        batch = replace(self._batch(len(positions)), edge_index=index, edge_shifts=shifts)
        return self._compute(positions, batch)

    def _without_broken(self, positions: Tensor, finite: Tensor) -> Forces:
        """NaN for replicas with positions that are not finite; a neighbour list cannot be made of those."""

        def spread(x: Tensor) -> Tensor:
            out = x.new_full((len(positions), *x.shape[1:]), torch.nan)
            out[finite] = x
            return out

        if not bool(finite.any()):
            empty = positions.new_full(positions.shape[:1], torch.nan)
            features = positions.new_full((len(positions), self.model.num_pooled), torch.nan)
            extras = {"features": features} if self.features else {}
            if self.decision is not None:
                extras["screen"] = empty.clone()
            return empty, torch.full_like(positions, torch.nan), extras
        energy, forces, extras = self._with_list(positions[finite])
        return spread(energy), spread(forces), {k: spread(v) for k, v in extras.items()}

    def _make_list(self, positions: Tensor) -> SkinList:
        return SkinList.make(positions, self._batch(len(positions)), self.model.cutoff)

    def arrays(self) -> dict[str, Tensor]:
        """What a restart needs to compute the same bits again: whether compiled and in which blocks, and the positions
        the neighbour list was made for."""
        out = {} if self._list is None else {"list_positions": self._list.made_for.clone()}
        if self.compiled is not None and self.block is not None:
            out["mode"] = torch.tensor([int(self.compiled), self.block])
        return out

    def load(self, arrays: dict[str, Tensor]) -> None:
        """Go on from :meth:`arrays`."""
        if "list_positions" in arrays:
            self._compiled, self.compiled = None, False  # as it was, whatever could be compiled today
            self._lay_out(dense=False)
            self._list = self._make_list(arrays["list_positions"].to(self.system.masses.device))
        if "mode" in arrays:
            compiled, self.block = (int(x) for x in arrays["mode"])
            self._compiled = None
            if compiled and isinstance(self.model, CompilableModel):
                self._lay_out(dense=True)
                wanted = self.model, self._batch(self.block), self.decision, self.limits
                self._compiled = load(*wanted) or build(*wanted)
            self.compiled = self._compiled is not None
            self._lay_out(dense=self.compiled or self.system.n_atoms <= DENSE_MAX_ATOMS)
            if self.compiled != bool(compiled):
                log.warning("the run was compiled and goes on uncompiled: the same to rounding, not bit for bit")
