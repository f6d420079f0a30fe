"""What passes from stage to stage of a calibration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from equimd.data.dataset import Dataset
from equimd.guard.calibration import Calibration, StatePoint
from equimd.guard.saved import place_for
from equimd.md.ensembles import ENSEMBLES
from equimd.model.interface import Model
from equimd.run import Run
from equimd.tasks.calibrate.dynamics import OwnRuns, Verdict
from equimd.tasks.calibrate.frames import Partition
from equimd.tasks.calibrate.settings import CalibrationSettings
from equimd.tasks.calibrate.sigmas import Part, Recalibrated, Scored, Thresholds


@dataclass(frozen=True)
class Prepared:
    """A calibration that nothing stands in the way of.

    Attributes:
        train: training frames that the posterior is made from; of ``n_train`` that there are.
        held_out, test: usable frames; ``test`` None reports on the frames of the thresholds.
        temperature: of the model's own runs, K; None leaves the halt threshold out.
        no_halt: why there will be no halt threshold; None if there may be one.
    """

    run: Run
    model: Model
    model_sha256: str
    train: Dataset
    n_train: int
    held_out: Dataset
    test: Dataset | None
    parts: Partition
    settings: CalibrationSettings
    temperature: float | None
    no_halt: str | None
    compositions: tuple[str, ...]
    data_sha256: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    @property
    def state_point(self) -> StatePoint:
        """The dynamics of the model's own runs."""
        s = self.settings
        friction = s.friction if ENSEMBLES[s.ensemble].has_friction else None
        return StatePoint(self.temperature, s.ensemble, s.dt, friction, s.score_every)

    @property
    def name(self) -> str:
        """Of the calibration among those of the run."""
        length = self.settings.run_length if self.no_halt is None else None
        return self.settings.name or self.state_point.name(length)

    @property
    def folder(self) -> Path:
        """Where the calibration will be."""
        return place_for(self.run.path, self.name)


@dataclass(frozen=True)
class Calibrating:
    """What the stages found, for the report and the plots."""

    prepared: Prepared
    found: Recalibrated
    scored: Scored
    thresholds: Thresholds
    part: Part
    report_part: Part
    own: OwnRuns | None
    outcome: Verdict
    calibration: Calibration
