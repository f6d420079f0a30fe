"""A potential of zero for metatomic's engines."""

from __future__ import annotations

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import AtomisticModel, ModelCapabilities, ModelMetadata, ModelOutput, System


class _Nothing(torch.nn.Module):
    def forward(
        self, systems: list[System], outputs: dict[str, ModelOutput], selected_atoms: Labels | None
    ) -> dict[str, TensorMap]:
        energies = [0.0 * system.positions.sum() for system in systems]  # with a derivative
        rows = torch.arange(len(systems), dtype=torch.int32)[:, None]
        one, none = torch.zeros(1, 1, dtype=torch.int32), torch.jit.annotate(list[Labels], [])
        block = TensorBlock(torch.stack(energies)[:, None], Labels(["system"], rows), none, Labels(["energy"], one))
        return {"energy": TensorMap(Labels(["_"], one), [block])}


def nothing(elements: list[int]) -> AtomisticModel:
    """Energies and forces of zero, without neighbour lists."""
    capabilities = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="system")},
        atomic_types=elements,
        interaction_range=0.0,
        length_unit="angstrom",
        supported_devices=["cpu"],
        dtype="float32",
    )
    return AtomisticModel(torch.jit.script(_Nothing().eval()), ModelMetadata(), capabilities)
