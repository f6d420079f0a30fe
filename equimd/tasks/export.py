"""``equimd.export``: a trained model as a file that metatomic's engines run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from equimd.errors import ConfigError
from equimd.files import check_output, plain, replacing
from equimd.notices import warn
from equimd.shown import Shown
from equimd.tasks.keywords import InferenceSettings, loaded, settings_of, takes

DEFAULT = "model.pt"
#: Settings of inference that mean something here.
SETTINGS = {k: InferenceSettings.model_fields[k] for k in ("weights", "uncertainty", "calibration", "charge", "spin")}


@dataclass(frozen=True, repr=False)
class ExportResult(Shown):
    """A file that was written.

    Attributes:
        path: of the file. outputs: what engines can ask for.
        elements: symbols of those that the model was trained on.
        interaction_range: Angstrom, how far an atom's part of the energy sees.
        dtype: of positions and energies as engines hand them over.
    """

    path: Path
    outputs: tuple[str, ...]
    elements: tuple[str, ...]
    interaction_range: float
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd export --json``."""
        rest = {"outputs": self.outputs, "elements": self.elements, "interaction_range_A": self.interaction_range}
        return plain({"path": self.path, "bytes": self.path.stat().st_size, **rest, "dtype": self.dtype})

    def _shown(self) -> Mapping[str, str]:
        told = {"path": str(self.path), "outputs": ", ".join(self.outputs), "elements": " ".join(self.elements)}
        return {**told, "interaction range": f"{self.interaction_range:g} A", "dtype": self.dtype}


@takes(SETTINGS)
def export(
    run: Any,
    *,
    out: str | Path = DEFAULT,
    dtype: Literal["float32", "float64"] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> ExportResult:
    """A metatomic model of a run, for ASE, LAMMPS, i-PI, torch-sim and more; what ``equimd export`` does.

    Args:
        run: run folder, what ``equimd.train`` or ``equimd.calibrate`` returned, or a loaded model.
        out: file to write.
        dtype: of positions and energies as engines hand them over; by default the model's.
        overwrite: replace that file if it is there.

    Raises:
        DataError: the file exists. ModelError: a charge or multiplicity the model never saw, or none is told and it
            knows several; a model that cannot be traced.
        ConfigError, RunError, UncertaintyError: of settings, run and calibration; metatomic is not installed.
    """
    s = settings_of(InferenceSettings, None, {**options, "device": "cpu"})
    check_output(out, overwrite)
    if importlib.util.find_spec("metatomic") is None:
        raise ConfigError("metatomic is not installed", hint='pip install "equimd[metatomic]"')
    from ase.data import chemical_symbols

    from equimd.calculators.metatomic import OUTPUTS, exported

    model = loaded(run, s)
    calibrated = s.uncertainty and model.gives_uncertainty()
    made = exported(model, uncertainty=calibrated, charge=s.charge, spin=s.spin, dtype=dtype)
    with replacing(out) as path:
        made.save(path)
    if s.uncertainty and not calibrated:
        warn("the run is not calibrated: exported without uncertainties, which `equimd calibrate` makes")
    if not model.has_forces:
        warn("the model was trained on energies alone: it gives no forces")
    can = made.capabilities()
    outputs = tuple(name for name in OUTPUTS if name in can.outputs)
    elements = tuple(chemical_symbols[z] for z in can.atomic_types)
    return ExportResult(Path(out), outputs, elements, can.interaction_range, can.dtype)
