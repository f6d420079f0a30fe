"""Settings of a comparison: those of a simulation that it leaves open, and the options of ``equimd compare``."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from equimd.tasks.simulate.settings import SimulationSettings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

#: Settings of the dynamics that a comparison leaves open; it runs at constant energy, without a threshold.
COMPARED = (
    "time", "steps", "dt", "temperature", "equilibrate", "replicas", "seed", "relax", "save_every", "dtype", "device",
    "compile", "threads", "charge", "spin",
)  # fmt: skip
#: Those with another default than in a simulation.
DEFAULTS = {"ensemble": "nve", "equilibrate": 2.0}


def compared_fields() -> dict[str, FieldInfo]:
    """The settings, with the defaults that hold here."""
    fields = {key: copy(SimulationSettings.model_fields[key]) for key in COMPARED}
    for key in DEFAULTS.keys() & fields.keys():
        fields[key].default = DEFAULTS[key]
    return fields
