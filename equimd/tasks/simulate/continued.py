"""A simulation that goes on, from its last good frames, with another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from equimd.errors import ConfigError, RunError
from equimd.files import load_tensors
from equimd.md.simulation import KIND, RESTART_FILE
from equimd.tasks.simulate.session import SETTINGS_FILE
from equimd.tasks.simulate.settings import SimulationSettings, parse_settings, read_settings
from equimd.tasks.simulate.start import START_FILE, Start


def continued(folder: Path, given: Mapping[str, Any]) -> tuple[SimulationSettings, Start]:
    """Settings and start of the rest of a simulation: every replica from its last good frame, with its velocities and
    random numbers of its own, as long as the replica that halted first still had to go.

    Args:
        given: settings that differ, such as ``run``, the better model.

    Raises:
        RunError: not a simulation, or damaged. ConfigError: nothing is left, or a setting that cannot be had so.
    """
    if not (folder / START_FILE).is_file() or not (folder / RESTART_FILE).is_file():
        raise RunError("is not a simulation to continue", where=str(folder), hint="the folder given by --out")
    fixed = [k for k in ("structure", "replicas", "first_replica", "relax", "equilibrate") if k in given]
    if fixed:
        option = "--" + fixed[0].replace("_", "-")
        raise ConfigError(f"{option} cannot be had with --continue", hint="leave it out, or start from a structure")
    path = str(folder / SETTINGS_FILE)
    old = parse_settings(read_settings(path), where=path)
    tensors, meta = load_tensors(folder / RESTART_FILE, KIND)
    halted = [f["step"] - 1 for f in meta["suspects"]["frames"] if f["action"] == "halt"]
    left = old.n_steps - max(0, min([*halted, int(meta["step"])]))
    values = {"steps": left, "time": None, "seed": old.seed + 1, "relax": False, "equilibrate": 0.0, **given}
    if "run" in given:
        values.setdefault("calibration", None)  # another run has others
    if not left and not {"steps", "time"} & given.keys():
        raise ConfigError("it was completed: nothing is left", where=str(folder), hint="--time: how long to go on")
    if given.get("time") is not None:
        values.pop("steps")
    start = Start.load(folder)[0]
    x, v = tensors["state/positions"], tensors["state/velocities"]
    start = replace(start, positions=x, velocities=v, bonded=start.reference)
    return parse_settings(values, base=old, where="command line"), start
