"""``equimd.load``: the model of a run folder, which predicts and makes calculators."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms

from equimd.calculators.ase import EquimdCalculator
from equimd.calculators.guarded import OnExceed
from equimd.calculators.predictor import Predictor, Wanted
from equimd.calculators.step import Step
from equimd.forces.forcefield import Compile


class LoadedModel(Predictor):
    """A model ready for use; ``equimd.load`` makes one. The arguments are those of :class:`Predictor`."""

    def calculator(
        self,
        *,
        uncertainty: Wanted = "auto",
        on_exceed: OnExceed = "ignore",
        threshold: str | float = "auto",
        compile: Compile = "off",
        charge: int | None = None,
        spin: int | None = None,
    ) -> EquimdCalculator:
        """An ASE calculator of this model; the arguments are those of :class:`EquimdCalculator`."""
        return EquimdCalculator(
            self,
            uncertainty=uncertainty,
            on_exceed=on_exceed,
            threshold=threshold,
            compile=compile,
            charge=charge,
            spin=spin,
        )

    def step(
        self,
        atoms: Atoms,
        *,
        on_exceed: OnExceed = "halt",
        threshold: str | float = "auto",
        compile: Compile = "auto",
        charge: int | None = None,
        spin: int | None = None,
    ) -> Step:
        """Energy, forces and score of one structure, for engines; the arguments are those of :class:`Step`."""
        return Step(self, atoms, on_exceed=on_exceed, threshold=threshold, compile=compile, charge=charge, spin=spin)


def load(run: str | Path, *, which: str = "best", device: str = "cpu", calibration: str | None = None) -> LoadedModel:
    """The model of a run folder.

    Args:
        which: ``best`` weights by validation, or the ``last`` ones.
        device: ``cpu``, ``cuda`` ...
        calibration: the name of the calibration that is used, of several; by default the first.

    Raises:
        RunError: no such run, or it is damaged or newer than this equimd.
    """
    return LoadedModel.open(run, which=which, device=device, calibration=calibration)
