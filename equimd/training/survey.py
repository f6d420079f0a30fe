"""What the frames of a training hold, found in one pass, and whether they are fit to be learned from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from equimd.config import RunConfig
from equimd.data.check_frames import FORCE_LIMIT
from equimd.data.check_pairs import sampled_consistency
from equimd.data.content import Hashes, content_hashes
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.data.reference import CompositionMeans
from equimd.errors import DataError


@dataclass
class Survey:
    """What one pass over some frames found."""

    elements: set[int] = field(default_factory=set)
    states: set[tuple[int | None, int]] = field(default_factory=set)
    hashes: Hashes = field(default_factory=lambda: Hashes.joined([]))
    n_frames: int = 0
    no_energy: int = 0
    no_forces: int = 0
    lone_atoms: int = 0
    forces_sq: float = 0.0
    n_components: int = 0
    max_force: float = 0.0
    large_forces: int = 0
    weight: float = 0.0
    weighted: bool = False
    periodic: bool = False
    where: str = ""
    energies: CompositionMeans = field(default_factory=CompositionMeans)

    @classmethod
    def of(cls, data: Dataset) -> Survey:
        found, hashes = cls(where=data.info.path), []
        for block in iterate_blocks(data):
            found.elements.update(int(z) for z in np.flatnonzero(np.bincount(block.numbers.ravel())) if z)
            found.states |= block.states
            hashes.append(content_hashes(block))
            found.energies.add(block)
            found.n_frames += len(block)
            found.no_energy += int((~block.has_energy).sum())
            found.no_forces += int((~block.has_forces).sum())
            found.lone_atoms += int((~block.has_forces & (block.n_atoms == 1)).sum())
            found.periodic |= bool(block.pbc.any())
            labelled = block.forces[block.force_mask]
            found.forces_sq += float(np.sum(np.square(labelled)))
            found.n_components += labelled.size
            largest = np.linalg.norm(np.where(block.force_mask[..., None], block.forces, 0.0), axis=-1).max(1)
            found.max_force = max(found.max_force, float(largest.max(initial=0.0)))
            found.large_forces += int((largest > FORCE_LIMIT).sum())
            found.weight += float(block.weight.sum())
            found.weighted |= bool((block.weight != 1).any())
        found.hashes = Hashes.joined(hashes)
        return found

    @property
    def force_rms(self) -> float:
        """Root mean square of the labelled force components, eV/A."""
        return float(np.sqrt(self.forces_sq / max(1, self.n_components)))

    @property
    def mean_weight(self) -> float:
        """Of the frames in the loss."""
        return self.weight / max(1, self.n_frames) or 1.0


def check_labels(survey: Survey, name: str, config: RunConfig) -> None:
    """Refuse frames without the labels that the loss needs, unless they are to be learned from as far as they go."""
    t, where = config.training, survey.where
    few = (survey.no_forces, survey.no_energy) if config.dataset.missing_labels == "refuse" else (0, 0)
    if t.forces_weight and few[0] and survey.lone_atoms == survey.no_forces:
        raise DataError(
            f"{survey.lone_atoms} of {survey.n_frames} {name} frames are isolated atoms without forces",
            where=where,
            hint="put them into a file of their own, and name it with --reference-energies",
        )
    if t.forces_weight and (few[0] or not survey.n_components):
        raise DataError(
            f"{survey.no_forces} of {survey.n_frames} {name} frames have no forces, or not on every atom",
            where=where,
            hint="leave them out; or --missing-labels mask learns from the labels there are; or --forces-weight 0 "
            "trains on energies alone (no forces, no MD afterwards)",
        )
    if t.energy_weight and (few[1] or survey.no_energy == survey.n_frames):
        raise DataError(
            f"{survey.no_energy} of {survey.n_frames} {name} frames have no energy",
            where=where,
            hint="leave them out; or --missing-labels mask learns from the labels there are; or --energy-weight 0 "
            "trains on forces alone",
        )


def check_pairs(config: RunConfig, data: Dataset) -> list[str]:
    """Whether the energies of near frames follow from their forces, on a sample; what to warn of.

    Raises:
        DataError: they do not: other units, the wrong sign, another method's, or another frame's.
    """
    t = config.training
    if not (config.dataset.check_pairs and t.energy_weight and t.forces_weight):
        return []
    found = sampled_consistency(data)
    if found is None:
        return []
    if found.verdict != "ok":
        raise DataError(
            found.sentence(), where=data.info.path,
            hint="state --energy-unit and --force-unit, or the columns that belong together with --energy-key and "
            "--forces-key; `equimd data inspect` shows more; --no-check-pairs trains all the same",
        )  # fmt: skip
    return [found.sentence()] if len(found.rows) else []


def large_forces(survey: Survey) -> list[str]:
    """What to warn of forces that are none of matter."""
    if not survey.large_forces:
        return []
    return [
        f"{survey.large_forces} training frames have forces above {FORCE_LIMIT:g} eV/A, up to {survey.max_force:.3g}: "
        "they are fitted as they stand, and outweigh the rest; are the units right, do atoms clash?"
    ]
