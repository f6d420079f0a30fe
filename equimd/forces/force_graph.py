"""Energy, forces, features, physical checks and the screen of a block of replicas as one graph of tensor operations.

Forces are unrolled: tracing (``make_fx``) records what autograd does, and no autograd is left in the graph. Weights,
atomic numbers and the posterior are inputs, so that one graph serves every model of the same configuration. What
depends on those alone (embeddings, messages of the first layer before they meet distances, masks) is split off: it is
computed once for a model, not in every step.

    symbol                              variable                       shape
    R, of A replicas of n atoms         positions                      (A, n, 3) float64, Angstrom
    x = R - mean of R                   x                              (A n, 3) in the model's precision
    E = E_net(x) + sum_i E0(Z_i)        energy; inputs["reference"]    (A,) float64, eV
    F = -dE_net/dx, or the direct head  forces                         (A, n, 3) float64, eV/Angstrom
    phi, and what other layers see      features                       (A, P), eV
    d_min^2 <= |R_i - R_j|^2 < d_max^2  bounds; sound, whether all do  (2, n, n) Angstrom^2; (A,)
    s = e^a v_E^b u^c                   screen; a, b, c are inputs["screen"], v_E and u of the features by "layer.*"
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, fx

from equimd.data.batch import Batch
from equimd.forces import native, products
from equimd.guard.limits import Limits
from equimd.guard.score import StepDecision
from equimd.model.interface import CompilableModel
from equimd.uq.posterior import LastLayer


def graph_inputs(
    model: CompilableModel, batch: Batch, decision: StepDecision | None = None, limits: Limits | None = None
) -> dict[str, Tensor]:
    """Everything a graph reads besides positions, for a batch in the dense layout."""
    tensors = {f"model.{k}": v for k, v in model.graph_tensors().items()}
    tensors |= {"numbers": batch.atomic_numbers, "charge": batch.charge, "spin": batch.spin}
    tensors["reference"] = model.reference_energy(batch)
    tensors["bounds"] = _bounds(limits, batch.num_slots).to(batch.positions.device)
    if decision is not None:
        layer, device = decision.calibrated.layer, batch.positions.device
        powers = [decision.screen.intercept, decision.screen.energy_power, decision.screen.distance_power]
        tensors |= {f"layer.{k}": v.to(device) for k, v in layer.state_dict().items() if not k.startswith("forces.")}
        tensors["screen"] = torch.tensor(powers, dtype=torch.float64, device=device)
    return tensors


def force_function(
    model: CompilableModel, batch: Batch, decision: StepDecision | None = None
) -> Callable[[Tensor, Mapping[str, Tensor]], tuple[Tensor, ...]]:
    """A pure function of positions (A, n, 3), float64, and of :func:`graph_inputs`.

    Returns energy (A,) float64, eV; forces (A, n, 3) float64, eV/Angstrom; features (A, P), eV; whether each frame is
    sound (A,) bool; and with a decision its screen (A,) float64, eV/Angstrom.
    """
    conservative, count, n = model.conservative, batch.num_structures, batch.num_slots

    def function(positions: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        centred = positions.detach() - positions.detach().mean(1, keepdim=True)
        x = centred.to(model.dtype).reshape(count * n, 3)
        given = replace(batch, atomic_numbers=inputs["numbers"], charge=inputs["charge"], spin=inputs["spin"])
        weights = {k.removeprefix("model."): v for k, v in inputs.items() if k.startswith("model.")}
        with torch.set_grad_enabled(conservative):
            x = x.requires_grad_(conservative)
            out = model.graph_outputs(weights, x, given, native=native.POSSIBLE)
            if conservative:
                forces = -torch.autograd.grad(out.energy.sum(), x)[0]
            else:
                forces = cast("Tensor", out.direct_forces)
        energy = out.energy.detach().double() + inputs["reference"]
        features, forces = out.features.detach(), forces.detach().double().view(count, n, 3)
        result = (energy, forces, features, _sound(positions.detach(), energy, forces, inputs["bounds"]))
        return result if decision is None else (*result, _screen(decision, features, n, inputs))

    return function


def _bounds(limits: Limits | None, n: int) -> Tensor:
    """(2, n, n) Angstrom^2: what squared distances must not be below, and be below; anything finite without limits."""
    bounds = torch.zeros(2, n, n, dtype=torch.float64)
    bounds[1] = torch.finfo(torch.float64).max
    if limits is not None:
        i, j = limits.first.cpu(), limits.second.cpu()
        for table, values in zip(bounds, (limits.lower2.cpu(), limits.upper2.cpu()), strict=True):
            table[i, j], table[j, i] = values, values
    return bounds


def _sound(positions: Tensor, energy: Tensor, forces: Tensor, bounds: Tensor) -> Tensor:
    """(A,) bool: numbers are finite and distances within the bounds, so that a guard need not look closer.

    NaN and infinite positions fail the comparison: the distances between them are NaN or infinite.
    """
    squared = (positions[:, :, None] - positions[:, None]).square().sum(-1)
    near = (squared >= bounds[0]) & (squared < bounds[1])
    return near.flatten(1).all(1) & torch.isfinite(energy) & torch.isfinite(forces).flatten(1).all(1)


def _screen(decision: StepDecision, features: Tensor, n: int, inputs: Mapping[str, Tensor]) -> Tensor:
    arrays = {k.removeprefix("layer."): v for k, v in inputs.items() if k.startswith("layer.")}
    # tensors in place of numbers, so that they stay inputs of the graph
    powers: dict[str, Any] = dict(zip(("intercept", "energy_power", "distance_power"), inputs["screen"], strict=True))
    screen = replace(decision.screen, **powers)
    n_atoms = torch.full((len(features),), n, device=features.device)
    return screen(LastLayer.from_state(arrays), features, n_atoms)


@dataclass(frozen=True)
class SplitGraph:
    """A traced function in two parts: ``constants = once(*inputs)``; in every step ``each(positions, *constants)``.

    Attributes:
        once: Python text of a function of the inputs, as :mod:`torch.fx` writes it.
        attributes: tensors that text refers to.
    """

    once: str
    attributes: dict[str, Tensor]
    each: fx.GraphModule


def trace(function: Callable[..., tuple[Tensor, ...]], positions: Tensor, inputs: Mapping[str, Tensor]) -> SplitGraph:
    """Trace a :func:`force_function` for the shapes of these arguments and split it."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def flat(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        return function(x, dict(zip(inputs, values, strict=True)))

    with torch.no_grad():
        traced = make_fx(flat)(positions.clone(), *inputs.values())
    if native.POSSIBLE:
        products.use_packed(traced.graph, *_parts(traced.graph))
    return _split(traced)


def evaluate_once(once: str, attributes: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors that the graph of every step reads."""
    namespace: dict[str, Any] = {"torch": torch, "device": torch.device, "inf": math.inf, "nan": math.nan}
    exec(compile(once, "<once>", "exec"), namespace)  # ours: written by `trace`, read from the user's own cache
    with torch.no_grad():
        return list(namespace["forward"](SimpleNamespace(**attributes), *inputs.values()))


def _parts(graph: fx.Graph) -> tuple[set[fx.Node], set[fx.Node]]:
    """The nodes that depend on the first placeholder, the positions, and those that depend on the others alone."""
    nodes = list(graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    moving, given = {placeholders[0]}, {node for node in nodes if node.op == "get_attr"} | set(placeholders[1:])
    for node in nodes:
        if any(source in moving for source in node.all_input_nodes):
            moving.add(node)
        elif any(source in given for source in node.all_input_nodes):
            given.add(node)
    return moving, given


def _split(traced: fx.GraphModule) -> SplitGraph:
    """In two, by what depends on the positions."""
    nodes = list(traced.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    moving, given = _parts(traced.graph)
    # the rest are constants made from nothing, such as zeros: cheaper to make where they are used than to read
    frontier = [node for node in nodes if node in given and any(user in moving for user in node.users)]

    each = fx.Graph()
    copies = {placeholders[0]: each.placeholder("positions")}
    copies |= {node: each.placeholder(f"constant_{k}") for k, node in enumerate(frontier)}
    for node in nodes:
        if node not in copies and node not in given and node.op != "placeholder":
            copies[node] = each.node_copy(node, lambda source: copies[source])
    each.eliminate_dead_code()

    once = fx.Graph()
    copies = {}
    for node in nodes:
        if node in moving or (node.op == "placeholder" and node not in given):
            continue
        copies[node] = once.node_copy(node, lambda source: copies[source])
    once.output([copies[node] for node in frontier])
    once.eliminate_dead_code()
    attributes = {node.target: getattr(traced, node.target) for node in nodes if node.op == "get_attr"}
    return SplitGraph(fx.GraphModule(traced, once).code, attributes, fx.GraphModule(traced, each))
