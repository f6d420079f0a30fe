"""What is killed: commands of seconds on models and frames of tests/golden/saved, and what they are to leave."""

from __future__ import annotations

import atexit
import csv
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from equimd.errors import EquimdError
from tests.golden.saved import SAVED
from tests.golden.shell import VOLATILE

#: What differs from run to run anyway.
OF_SESSION = VOLATILE
SIMULATION = "water.start.xyz --compile off --seed 1 --save-every 2"


@dataclass(frozen=True)
class Case:
    """A command that is killed and repeated.

    Attributes:
        begin: its words. resume: those that go on with it, where they are others.
        mark: the file that shows that there is something to go on with.
        result: what it left, as a JSON value that is the same of any two runs.
        prepare: what is done in the folder first.
    """

    begin: str
    result: Callable[[Path], Any]
    mark: str = ""
    resume: str = ""
    prepare: Callable[[Path], None] = lambda folder: None


def _json(path: Path) -> Any:
    def stable(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: stable(v) for k, v in value.items() if k not in OF_SESSION}
        if isinstance(value, str) and value.startswith("/"):
            return Path(value).name
        return [stable(v) for v in value] if isinstance(value, list) else value

    return stable(json.loads(path.read_text()))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _weights(path: Path) -> str:
    from equimd.files import load_tensors, tensor_digest

    kind = {"posterior": "posterior", "latest": "checkpoint"}.get(path.stem, "model")
    return tensor_digest(load_tensors(path, kind)[0])


def _frames(path: Path) -> list[str]:
    from equimd.data import open_dataset

    data = open_dataset(path)
    block = data.frames()
    values = (block.positions, block.energy, block.forces, data.trajectory)
    return [hashlib.sha256(v.tobytes()).hexdigest() for v in values]


def _trained(folder: Path) -> Any:
    run = folder / "out"
    with (run / "metrics.csv").open(newline="") as file:
        metrics = [{k: v for k, v in row.items() if k not in OF_SESSION} for row in csv.DictReader(file)]
    return [_weights(run / f"{n}.safetensors") for n in ("model", "last")] + [metrics, _json(run / "test.json")]


def _simulated(folder: Path) -> Any:
    from equimd.md.trajectory import read, trajectory_files

    found = [_json(folder / "out" / "summary.json")]
    for path in trajectory_files(folder / "out"):
        t = read(path)
        found.append([hashlib.sha256(a.tobytes()).hexdigest() for a in (t.step, t.positions, t.velocities, t.forces)])
    return found + [_digest(path) for path in sorted((folder / "out").glob("flagged.extxyz"))]


def _calibrated(folder: Path) -> Any:
    there = folder / "direct" / "calibration"
    return [_json(there / "calibration.json"), _weights(there / "posterior.safetensors")]


def _learned(folder: Path) -> Any:
    out = folder / "out"
    stages = _json(out / "journal.json")["stages"]
    measured = ("seconds", "cost")  # by a clock
    found = {name: {k: v for k, v in stage.items() if not k.endswith(measured)} for name, stage in stages.items()}
    return [found, *map(_json, out.glob("certificate.json")), *map(_frames, sorted((out / "data").glob("*.h5")))]


def _uncalibrated(folder: Path) -> None:
    shutil.rmtree(folder / "direct" / "calibration")


def _planned(folder: Path) -> None:
    """A learn folder whose decisions are made already: those of a clock would be others each time."""
    from equimd.tasks.learn.settings import LearnSettings
    from equimd.tasks.learn.task import begin
    from tests.tasks.learn.test_learn import PLAN

    springs = "tests.tasks.learn.test_learn"
    begin(
        LearnSettings.parse(
            {
                "molecule": "water", "calculator": f"{springs}:Often", "cheap": f"{springs}:Stiffer", "preset": "small",
                "jobs": 1, "run_length": 40, "share": 0.25, "error": "0.5eV/A", "compile": "off",
                "false_halt_rate": 0.3, "max_time": "1h",
            }
        ),
        folder / "out",
    )  # fmt: skip
    short = {name: {**values, "num_epochs": 4} if "num_epochs" in values else values for name, values in PLAN.items()}
    stop = {"next-0": {"expected_bad": 0.1, "do": "stop", "why": "enough for a kill"}}
    (folder / "out" / "plan.json").write_text(json.dumps({"version": 1, "stages": {**short, **stop}}))


@cache
def _water() -> Path:
    """A one-minute learn run of water, for its decisions."""
    import equimd

    made = Path(tempfile.mkdtemp(prefix="equimd-plan-")) / "out"
    with suppress(EquimdError):  # on a slow machine
        equimd.learn("water", run_length=200, share=0.2, max_time="1m", compile="off", out=made)
    equimd.learn(resume=made, max_time="10m")  # to its end, if a minute was too short
    atexit.register(shutil.rmtree, made.parent)
    return made


def _planned_water(folder: Path) -> None:
    """Water, with the decisions of a run that had a minute, and all the time it takes to be gone on with."""
    (folder / "out").mkdir()
    for name in ("learn.yaml", "conformers.xyz", "plan.json"):
        shutil.copy(_water() / name, folder / "out")


CASES = {
    "train": Case(
        "train --data water.xyz --splits 30 10 0 --test-data water-test.xyz --preset small --num-epochs 6 "
        "--compile off --batch-size-train 5 --out out",
        _trained,
        "out/config.yaml",
        "train --resume out",
    ),
    "calibrate": Case(
        "calibrate direct --data water-new.xyz --no-halt --false-alarm-rate 0.05 --overwrite",
        _calibrated,
        prepare=_uncalibrated,
    ),
    "simulate": Case(
        f"simulate direct {SIMULATION} --steps 200 --uq-threshold flag --out out",
        _simulated,
        "out/start.safetensors",
        "simulate --resume out",
    ),
    "simulate-halt": Case(
        f"simulate direct {SIMULATION} --temperature 1500 --steps 200 --replicas 3 --uq-threshold 0.148eV/A --out out",
        _simulated,
        "out/start.safetensors",
        "simulate --resume out",
    ),
    "generate": Case(
        "data generate H2 --calculator emt --frames 160 --trajectories 4 --interval 5 --equilibration 10 --out out.h5",
        lambda folder: _frames(folder / "out.h5"),
    ),
    "label": Case(
        "data label water.xyz water-new.xyz water-test.xyz alloy.xyz alloy-new.xyz --calculator emt --out out.h5",
        lambda folder: _frames(folder / "out.h5"),
    ),
    "convert": Case("data convert bundled:ethanol --out out.h5", lambda folder: _frames(folder / "out.h5")),
    "learn": Case("learn --resume out", _learned, prepare=_planned),
    "learn-water": Case("learn --resume out --max-time 3h", _learned, prepare=_planned_water),
}


def new_folder(case: Case, path: Path) -> Path:
    """A folder in which a case can begin."""
    shutil.copytree(SAVED, path)
    case.prepare(path)
    return path
