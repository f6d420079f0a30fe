"""``equimd.load``: the model of a run folder, which predicts and makes calculators."""

from __future__ import annotations

from pathlib import Path

import torch
from ase import Atoms
from ase.optimize import BFGS

from equimd.calculators.ase import EquimdCalculator
from equimd.calculators.guarded import OnExceed
from equimd.calculators.predictor import Predictor, Wanted
from equimd.calculators.step import Step
from equimd.data.frames import Frames
from equimd.errors import DataError
from equimd.forces.forcefield import Compile
from equimd.uq.minimum import Minimum, check_slope, minimum

MAX_FORCE, MAX_STEPS = 1e-4, 1000  # eV/Angstrom; of the search for a minimum


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

    def minimum(self, atoms: Atoms, *, uncertainty: Wanted = "auto") -> Minimum:
        """The nearest minimum of the energy, its harmonic frequencies and, of a calibrated run, what the model's error
        makes of bond lengths and frequencies (:mod:`equimd.uq.minimum`); computed in float64.

        Raises:
            DataError: atoms that are held fixed, or no minimum found.
            UncertaintyError: forces that are not the slope of the energy; as :meth:`predict`.
        """
        calibrated = self.calibration.calibrated if self.gives_uncertainty(uncertainty) else None
        exact = LoadedModel(self.potential.converted(torch.float64), device=self.device)
        check_slope(exact.potential)
        if atoms.constraints:
            raise DataError("atoms are held fixed: the vibrations of the others are not computed", where="minimum")
        moved = atoms.copy()
        moved.calc = exact.calculator(uncertainty=False)
        with BFGS(moved, logfile=None) as search:
            converged = search.run(fmax=MAX_FORCE, steps=MAX_STEPS)
        if not converged:
            raise DataError(f"no minimum within {MAX_STEPS} steps", where="minimum", hint="another start geometry")
        return minimum(exact.potential, Frames.from_ase([moved]), moved.get_masses(), calibrated)


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
