"""The contract of models: PaiNN and a small second model keep it, and each way to break it is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.errors import EXIT_USAGE, ConformanceError
from equimd.model import conformance
from equimd.model.conformance import check_model
from equimd.model.differentiable import DifferentiableModel, neighbors_within
from equimd.model.interface import Evaluation, NetworkOutput, Rows
from equimd.model.painn.potential import Potential
from tests.pairwise import PairwiseModel

ELEMENTS = (1, 6, 8)


@pytest.mark.parametrize("lmax", [1, 2, 3])
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_painn_keeps_the_contract(forces: str, lmax: int) -> None:
    small = {"num_features": 4, "num_layers": 2, "num_rbf": 6, "num_readout": 5, "cutoff": 4.0}
    dtype = "float64" if lmax == 2 else "float32"
    model = Potential(ModelConfig(**small, elements=ELEMENTS, lmax=lmax, forces=forces, dtype=dtype))
    model.atomic_energies[list(ELEMENTS)] = torch.tensor([-13.6, -1036.123456789, -2043.1], dtype=torch.float64)
    assert check_model(model) == ("facts", *conformance.CHECKS)


@pytest.mark.parametrize("settings", [{"charge_spin": True}, {"energy_only": True}, {"elements": ()}])
def test_painn_keeps_it_whatever_it_was_made_for(settings: dict[str, object]) -> None:
    small = {"num_features": 4, "num_layers": 1, "num_rbf": 4, "num_readout": 3, "cutoff": 3.5, "elements": ELEMENTS}
    check_model(Potential(ModelConfig(**(small | settings))).train())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_second_model_keeps_it(dtype: torch.dtype) -> None:
    check_model(PairwiseModel(ELEMENTS, dtype=dtype))


class WrongSign(PairwiseModel):
    def evaluate(self, batch: Batch) -> Evaluation:
        out = super().evaluate(batch)
        return {**out, "forces": -out["forces"]}


class WrongRows(PairwiseModel):
    def rows(self, batch: Batch, **options: object) -> Rows:
        energy, forces = super().rows(batch, **options)
        return Rows(energy, 1.01 * forces)


class NoDirections(PairwiseModel):
    def rows(self, batch: Batch, *, directions: Tensor | None = None, **options: object) -> Rows:
        return super().rows(batch, **options)


class PrefersAnAxis(PairwiseModel):
    def pooled(self, positions: Tensor, batch: Batch) -> Tensor:
        return super().pooled(positions * positions.new_tensor([1.0, 1.0, 1.01]), batch)


class KnowsTheOrder(PairwiseModel):
    def pooled(self, positions: Tensor, batch: Batch) -> Tensor:
        _, counts = batch.batch.unique(return_counts=True)
        place = torch.arange(len(batch.batch)) - (counts.cumsum(0) - counts)[batch.batch]
        return super().pooled(positions * (1 + 0.01 * place[:, None]), batch)


class KnowsItsCompany(PairwiseModel):
    def pooled(self, positions: Tensor, batch: Batch) -> Tensor:
        return super().pooled(positions, batch) / batch.num_structures


class SinglePrecision(PairwiseModel):
    def pooled(self, positions: Tensor, batch: Batch) -> Tensor:
        return super().pooled(positions.float().to(positions.dtype), batch)


class SingleReferences(PairwiseModel):
    def __init__(self, elements: tuple[int, ...]) -> None:
        super().__init__(elements)
        self.atomic_energies = torch.full((119,), -1036.123456789, dtype=torch.float64)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SingleReferences:
        return nn.Module._apply(self, fn, recurse)


class TakesAll(PairwiseModel):
    def check(self, batch: Batch) -> None:
        pass


class Jumps(PairwiseModel):
    """Counts neighbours."""

    def pooled(self, positions: Tensor, batch: Batch) -> Tensor:
        target = neighbors_within(positions, batch, self.cutoff).target
        count = positions.new_zeros(batch.num_structures)
        count = count.index_add(0, batch.batch[target], positions.new_ones(len(target)))
        return super().pooled(positions, batch) + count[:, None]


class Averages(PairwiseModel):
    def pooled(self, positions: Tensor, batch: Batch) -> Tensor:
        return super().pooled(positions, batch) / batch.n_atoms[:, None]


class KeepsTheGraph(PairwiseModel):
    def evaluate(self, batch: Batch) -> Evaluation:
        return self._evaluated(batch, differentiable=True)


class WritesToItsInput(PairwiseModel):
    def check(self, batch: Batch) -> None:
        super().check(batch)
        batch.positions.sub_(batch.positions.mean(0))


class NotLinear(PairwiseModel):
    def outputs(self, positions: Tensor, batch: Batch, *, once: bool = False) -> NetworkOutput:
        out = super().outputs(positions, batch, once=once)
        return out._replace(energy=out.energy + 0.1 * out.energy.square())


class ForgetsTheLattice(PairwiseModel):
    def pooled(self, positions: Tensor, batch: Batch) -> Tensor:
        return super().pooled(positions, replace(batch, edge_shifts=None))


class SeesCharges(PairwiseModel):
    def pooled(self, positions: Tensor, batch: Batch) -> Tensor:
        return super().pooled(positions, batch) * (1 + batch.charge[:, None])


BROKEN = {
    WrongSign: ("derivatives", "forces beside -dE/dx"),
    WrongRows: ("derivatives", "force rows beside"),
    NoDirections: ("columns of rows", "directions"),
    PrefersAnAxis: ("symmetry", "energies of turned structures"),
    KnowsTheOrder: ("permutation", "another order"),
    KnowsItsCompany: ("batching", "of a structure alone"),
    SinglePrecision: ("precision", "no smooth function"),
    SingleReferences: ("precision", "reference energies"),
    TakesAll: ("unseen elements", "element 92"),
    Jumps: ("cutoff", "jumps"),
    Averages: ("size", "two molecules far apart"),
    KeepsTheGraph: ("shapes", "still has its graph"),
    WritesToItsInput: ("inputs left alone", "positions"),
    NotLinear: ("linear last layer", "energy_weights"),
    ForgetsTheLattice: ("periodic", "periodic box"),
    SeesCharges: ("charge and spin", "another charge"),
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_each_way_to_break_it_is_named(kind: type[PairwiseModel]) -> None:
    name, words = BROKEN[kind]
    with pytest.raises(ConformanceError, match=words) as caught:
        check_model(kind(ELEMENTS))
    assert caught.value.where == f"{kind.__name__}: {name}"
    assert caught.value.exit_code == EXIT_USAGE


def test_what_is_no_model_is_named_too() -> None:
    with pytest.raises(ConformanceError, match="is no model: .*elements"):
        check_model(object())
    wide = PairwiseModel(ELEMENTS)
    wide.cutoff = -1.0
    with pytest.raises(ConformanceError, match="a cutoff of -1"):
        check_model(wide)
    with pytest.raises(NotImplementedError):
        DifferentiableModel(ELEMENTS, 4.0).pooled(torch.zeros(1, 3), None)
