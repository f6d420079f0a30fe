"""A trained model as a metatomic model: a file of TorchScript that engines run without equimd.

The network is traced over a list of edges: any number of atoms and systems. Each atom is a structure of its own to it,
whose neighbours are of others: so come out the parts of the energy and the features of single atoms, to be summed over
those that an engine asks for. Uncertainties are of the energies of whole systems, for these were calibrated: an engine
may warn of them, and stops by none.

    output                   samples         properties
    energy                   system, or atom 1; its derivative gives forces and stress, of conservative models alone
    energy_uncertainty       system          1, the sigma of the ASE calculator
    energy_ensemble          system          MEMBERS, whose mean is the energy and whose spread is the uncertainty
    non_conservative_force   atom            1, of direct models
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from ase.formula import Formula
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)
from torch import Tensor, nn

from equimd.calculators.predictor import Predictor
from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.data.state import in_words
from equimd.errors import ModelError
from equimd.guard.calibration import Calibration
from equimd.model.differentiable import MAX_ELEMENTS
from equimd.model.interface import CompilableModel
from equimd.uq.posterior import FeatureDistance, Posterior
from equimd.uq.predict import Calibrated

MEMBERS = 64  # draws of the posterior, half of them the mirror images of the others
WHERE = "metatomic export"
OUTPUTS = ("energy", "energy_uncertainty", "energy_ensemble", "non_conservative_force")
#: Papers, for the metadata.
PAINN, LAST_LAYER = "https://arxiv.org/abs/2102.03150", "https://arxiv.org/abs/2403.02251"


class _Network(nn.Module):
    """Energy (N,), eV, features (N, P) and direct forces (N, 3) of N atoms; made to be traced."""

    def __init__(self, model: CompilableModel, charge: int, spin: int) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("state", torch.tensor([charge, spin]))
        self.state: Tensor

    def forward(
        self, positions: Tensor, numbers: Tensor, edge_index: Tensor, edge_shifts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ones = numbers.new_ones(numbers.shape)
        charge, spin = self.state[:1] * ones, self.state[1:] * ones
        cell, pbc = positions.new_zeros(1, 3, 3), positions.new_zeros(1, 3)  # nothing but the shifts knows of them
        batch = Batch(positions, numbers, ones.cumsum(0) - 1, ones, charge, spin, cell, pbc)
        batch = replace(batch, edge_index=edge_index, edge_shifts=edge_shifts)
        out = self.model.graph_outputs({}, positions, batch, native=False)
        forces = positions.new_zeros(0, 3) if out.direct_forces is None else out.direct_forces
        return out.energy, out.features, forces


class _Sigmas(nn.Module):
    """Standard deviation (B,) and deviations of the draws (B, MEMBERS), eV, of energies; made to be traced."""

    def __init__(self, calibrated: Calibrated, seed: int = 0) -> None:
        super().__init__()
        self.recalibration = calibrated.energy
        posterior, distance = calibrated.layer.energy, calibrated.layer.distance
        half = np.random.default_rng(seed).standard_normal((posterior.width + 1, MEMBERS // 2))
        draws = torch.from_numpy(np.concatenate([half, -half], 1)).to(posterior.scale)
        parts = {"posterior": vars(posterior), "distance": vars(distance)}
        parts["draws"] = {"weights": posterior.scale @ draws[:-1], "noise": draws[-1]}
        for part, tensors in parts.items():
            for name, value in tensors.items():
                self.register_buffer(f"{part}_{name}", value.clone())

    def forward(self, features: Tensor, n_atoms: Tensor) -> tuple[Tensor, Tensor]:
        own = dict(self.named_buffers())

        def tensors(part: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{part}_"): v for k, v in own.items() if k.startswith(f"{part}_")}

        posterior, draws = Posterior(**tensors("posterior")), tensors("draws")
        v = posterior.variance(features)
        u = FeatureDistance(**tensors("distance"))(features, n_atoms)
        m, noise = self.recalibration.factors(v, u)
        drawn = m.sqrt()[:, None] * (features[:, : posterior.width].double() @ draws["weights"])
        return (m * v + noise).sqrt(), drawn + noise.sqrt()[:, None] * draws["noise"]


class EnergyModel(nn.Module):
    """What metatomic asks of a model, in TorchScript.

    Args:
        network: traced :class:`_Network`. sigmas: traced :class:`_Sigmas`, or None.
        differentiable: whether the derivative of the energy is the force.
        compositions: (C, 119) atoms of each element in the compositions that were calibrated on.
    """

    def __init__(
        self,
        network: nn.Module,
        sigmas: nn.Module | None,
        reference: Tensor,
        neighbors: NeighborListOptions,
        dtype: torch.dtype,
        differentiable: bool,
        compositions: Tensor,
    ) -> None:
        super().__init__()
        self.network, self.sigmas, self.neighbors = network, sigmas, neighbors
        self.dtype, self.differentiable, self.warned = dtype, differentiable, False
        self.register_buffer("reference", reference)
        self.register_buffer("compositions", compositions)
        self.reference: Tensor
        self.compositions: Tensor

    @torch.jit.export
    def requested_neighbor_lists(self) -> list[NeighborListOptions]:
        return [self.neighbors]

    def forward(
        self,
        systems: list[System],
        outputs: dict[str, ModelOutput],
        selected_atoms: Labels | None = None,
    ) -> dict[str, TensorMap]:
        positions: list[Tensor] = []
        numbers: list[Tensor] = []
        edges: list[Tensor] = []
        shifts: list[Tensor] = []
        labels: list[Tensor] = []
        starts: list[int] = [0]
        for k, system in enumerate(systems):
            pairs = system.get_neighbor_list(self.neighbors).samples.values
            positions.append(system.positions)
            numbers.append(system.types.to(torch.long))
            edges.append(pairs[:, :2].to(torch.long) + starts[-1])
            shifts.append(pairs[:, 2:].to(system.cell.dtype) @ system.cell)
            atoms = torch.arange(len(system), device=pairs.device)
            labels.append(torch.stack([torch.full_like(atoms, k), atoms], 1))
            starts.append(starts[-1] + len(system))
        z, atom = torch.cat(numbers), torch.cat(labels)
        given = torch.cat(positions)
        edge_index = torch.cat(edges).t().flip(0)  # ours have the sender first
        energy, features, forces = self.network(given.to(self.dtype), z, edge_index, torch.cat(shifts).to(self.dtype))
        energy = energy.to(torch.float64) + self.reference[z]
        if not self.differentiable:
            energy = energy.detach()
        if selected_atoms is not None:
            chosen = selected_atoms.values.to(torch.long)
            rows = torch.tensor(starts, device=z.device)[chosen[:, 0]] + chosen[:, 1]
            z, atom, energy, features = z[rows], atom[rows], energy[rows], features[rows]
            if not self.differentiable and forces.shape[0] > 0:
                forces = forces[rows]

        owner, per_atom, results = atom[:, 0], ["system", "atom"], torch.jit.annotate(dict[str, TensorMap], {})
        system_labels = torch.arange(len(systems), device=z.device)[:, None]
        total = energy.new_zeros(len(systems)).index_add(0, owner, energy)
        if "energy" in outputs:
            if outputs["energy"].sample_kind == "atom":
                results["energy"] = self.block(energy[:, None], per_atom, atom, "energy", given.dtype)
            else:
                results["energy"] = self.block(total[:, None], ["system"], system_labels, "energy", given.dtype)
        if "non_conservative_force" in outputs:
            name = "non_conservative_force"
            results[name] = self.block(forces[:, :, None], per_atom, atom, name, given.dtype)
        sigmas = self.sigmas
        if sigmas is not None and ("energy_uncertainty" in outputs or "energy_ensemble" in outputs):
            if selected_atoms is None:
                self.warn_unlike(z, owner, len(systems))
            pooled = features.new_zeros(len(systems), features.shape[1]).index_add(0, owner, features)
            counts = torch.bincount(owner, minlength=len(systems)).clamp(min=1)
            sigma, drawn = sigmas(pooled, counts)
            if "energy_uncertainty" in outputs:
                name = "energy_uncertainty"
                results[name] = self.block(sigma[:, None], ["system"], system_labels, "energy", given.dtype)
            if "energy_ensemble" in outputs:
                name = "energy_ensemble"
                results[name] = self.block(total[:, None] + drawn, ["system"], system_labels, "energy", given.dtype)
        return results

    def block(self, values: Tensor, names: list[str], samples: Tensor, name: str, dtype: torch.dtype) -> TensorMap:
        """Values (S, 1), (S, 3, 1) for vectors, or (S, members), in metatomic's form."""
        none = torch.zeros(1, 1, dtype=torch.int32, device=values.device)
        components = torch.jit.annotate(list[Labels], [])
        if values.dim() == 3:
            axes = torch.arange(3, dtype=torch.int32, device=values.device)[:, None]
            components.append(Labels(["xyz"], axes))
        columns = torch.arange(values.shape[-1], dtype=torch.int32, device=values.device)[:, None]
        found = TensorBlock(
            values.to(dtype), Labels(names, samples.to(torch.int32)), components, Labels([name], columns)
        )
        return TensorMap(Labels(["_"], none), [found])

    def warn_unlike(self, z: Tensor, owner: Tensor, count: int) -> None:
        """Once, of a composition that was not calibrated on."""
        width = self.compositions.shape[1]
        found = torch.bincount(owner * width + z, minlength=count * width).view(count, 1, width)
        if not self.warned and not bool((found == self.compositions).all(2).any(1).all()):
            self.warned = True
            warnings.warn("equimd: not a composition that uncertainties were calibrated on, their size is a guess")  # noqa: B028


def exported(
    model: Predictor,
    *,
    uncertainty: bool = True,
    charge: int | None = None,
    spin: int | None = None,
    dtype: str | None = None,
) -> AtomisticModel:
    """A model of metatomic; its ``save`` writes the file that engines load.

    Args:
        uncertainty: of energies, from the calibration of the run, which it then must have.
        charge, spin: total charge, and multiplicity 2S+1, of all systems; they have to be told where the model was
            trained on several.
        dtype: float32 or float64: of positions and energies as they are handed over; by default the model's. The
            network computes in its own precision.

    Raises:
        ModelError: no network that can be traced, or a state that the model never saw.
        UncertaintyError: no calibration, or the model has changed since.
    """
    potential: Any = model.potential.converted(device="cpu")
    if not isinstance(potential, CompilableModel) or not isinstance(potential, nn.Module):
        raise ModelError(
            f"{potential.description}: a model that cannot be traced", where=WHERE, hint="one with `graph_outputs`"
        )
    calibration = model.calibration if uncertainty else None
    elements = list(potential.elements) or list(range(1, MAX_ELEMENTS))
    neighbors = NeighborListOptions(cutoff=potential.cutoff, full_list=True, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; sizes of layers are constants of the graph
        network = _traced_network(potential, *_state(model, charge, spin))
        module = EnergyModel(
            network,
            None if calibration is None else _traced_sigmas(calibration, potential.num_pooled),
            nn.functional.pad(potential.reference_energy(_alone(range(1, MAX_ELEMENTS))), (1, 0)),
            neighbors,
            potential.dtype,
            potential.conservative and potential.has_forces,
            _compositions(calibration),
        )
        capabilities = ModelCapabilities(
            outputs=_outputs(potential, calibration is not None),
            atomic_types=elements,
            interaction_range=potential.interaction_range,
            length_unit="angstrom",
            supported_devices=["cuda", "cpu"],
            dtype=dtype or str(potential.dtype).removeprefix("torch."),
        )
        return AtomisticModel(torch.jit.script(module.eval()), _metadata(model, calibration), capabilities)


def _alone(elements: Sequence[int], charge: int | None = None, spin: int | None = None) -> Batch:
    """Structures of one atom each."""
    frames = Frames.build(np.array(elements)[:, None], np.zeros((len(elements), 1, 3)))
    return Batch.from_frames(frames.with_state(charge, spin, where=WHERE), 1.0, neighbors="torch")


def _state(loaded: Predictor, charge: int | None, spin: int | None) -> tuple[int, int]:
    """The charge and multiplicity that the model answers for.

    Raises:
        ModelError: none is told, and it knows several; or one that it never saw.
    """
    potential, states = loaded.potential, tuple(getattr(loaded.config, "states", ()))
    if charge is None and spin is None and potential.sees_charge_spin:
        if len(states) != 1:
            listed = "; ".join(in_words(*s) for s in states)
            what = "the model was trained on several charges or multiplicities, and is exported for one"
            raise ModelError(what, where=WHERE, hint="--charge and --spin" + (f": {listed}" if listed else ""))
        charge, spin = states[0]
    potential.check(_alone(potential.elements[:1] or [1], charge, spin).to(potential.device))
    return charge or 0, spin or 0


def _traced_network(potential: Any, charge: int, spin: int) -> nn.Module:
    network = _Network(potential, charge, spin).eval()
    z = torch.tensor([*potential.elements[:1], 1, 1])[:3]
    positions, edges = torch.eye(3, dtype=potential.dtype), torch.tensor([[1, 2, 0, 2], [0, 0, 1, 1]])
    shifts = positions.new_zeros(edges.shape[1], 3)
    return _movable(torch.jit.trace(network, (positions, z, edges, shifts), check_trace=False))


def _traced_sigmas(calibration: Calibration, width: int) -> nn.Module:
    sigmas, features = _Sigmas(calibration.calibrated).eval(), torch.ones(2, width)
    return _movable(torch.jit.trace(sigmas, (features, torch.tensor([3, 4])), check_trace=False))


def _movable(traced: Any) -> nn.Module:
    """Tensors that the code makes are made where its inputs are: a trace keeps the device that it was made on."""
    graph = traced.graph
    torch._C._jit_pass_inline(graph)
    device = graph.create("prim::device", [list(graph.inputs())[1]], 1)  # after the module itself
    device.output().setType(torch._C.DeviceObjType.get())
    graph.prependNode(device)
    for node in graph.findAllNodes("prim::Constant"):
        if node.output().type().kind() == "DeviceObjType":
            node.output().replaceAllUsesWith(device.output())
    torch._C._jit_pass_dce(graph)
    return traced


def _compositions(calibration: Calibration | None) -> Tensor:
    found = torch.zeros(len(calibration.compositions) if calibration else 0, MAX_ELEMENTS, dtype=torch.long)
    for row, formula in zip(found, calibration.compositions if calibration else (), strict=True):
        for symbol, count in Formula(formula).count().items():
            row[chemical_symbols.index(symbol)] = count
    return found


def _outputs(potential: CompilableModel, calibrated: bool) -> dict[str, ModelOutput]:
    def output(unit: str, kind: str, text: str) -> ModelOutput:
        return ModelOutput(unit=unit, sample_kind=kind, explicit_gradients=[], description=text)

    found = {"energy": output("eV", "atom", "total energy, with that of the atoms alone")}
    if not potential.conservative:
        found["non_conservative_force"] = output("eV/Angstrom", "atom", "not the gradient of the energy")
    if calibrated:
        found["energy_uncertainty"] = output("eV", "system", "calibrated standard deviation")
        found["energy_ensemble"] = output("eV", "system", "draws of the calibrated posterior")
    return found


def _metadata(model: Predictor, calibration: Calibration | None) -> ModelMetadata:
    about = f"{model.potential.description}; energies in eV"
    extra = {"model_sha256": model.potential.identity()}
    if calibration is not None:
        about += f"; uncertainties calibrated on {', '.join(calibration.compositions[:20])}"
        extra["calibration"] = calibration.called
    name = "equimd" if model.run is None else model.run.path.resolve().name
    papers = {"architecture": [PAINN], "model": [LAST_LAYER] if calibration else []}
    return ModelMetadata(name=name, description=about, references=papers, extra=extra)
