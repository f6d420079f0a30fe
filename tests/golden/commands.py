"""Command lines that are recorded: one list a scenario, run one after another in a copy of ``saved/``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from tests.golden.shell import Shell

MODEL = "--num-layers 2 --num-rbf 6 --num-readout 4 --num-features 8 --radial-basis gaussian --compile off --threads 1"
TOY = f"--data water.xyz --splits 24 8 8 --energy-unit eV --batch-size-train 8 {MODEL}"
SHORT = "--compile off --save-every 5"
RATES = "--false-alarm-rate 0.05 --false-halt-rate 0.2 --blocks 4 --threads 1"

SCENARIOS: dict[str, list[str]] = {
    "train": [
        f"train {TOY} --num-epochs 2 --dtype float64 --out new",
        f"train {TOY} --num-epochs 1 --lmax 1 --forces direct --loss mse --lr-schedule plateau --out direct-new",
        f"train --init direct-new {TOY} --num-epochs 1 --lmax 1 --forces direct --seed 1 --out again",
        f"train {TOY} --num-epochs 1 --lmax 1 --forces-weight 0 --energy-weight 1 --out energies",
    ],
    "train-resume": [
        "train --resume lmax1 --num-epochs 7",
        "config check lmax1/config.yaml",
    ],
    "evaluate": [
        "evaluate conservative --data water-test.xyz --uncertainty-frames 20 --out evaluated.xyz --plot p.png --json",
        "evaluate direct --data water-test.xyz --data water.xyz --uncertainty-frames 0",
        "evaluate periodic --data alloy-test.xyz --no-uncertainty --json",
        "evaluate charged --data ions.xyz --display-unit kcal/mol",
        "evaluate energy-only --data mixed.xyz --json",
        "evaluate lmax1 --data bundled:ethanol-test --no-uncertainty --weights last --threads 1",
    ],
    "predict": [
        "predict conservative water-test.xyz --no-uncertainty --json",
        "predict conservative water.start.xyz",
        "predict direct water.start.xyz --out predicted.extxyz",
        "predict periodic alloy.start.xyz --json",
        "predict charged ion.start.xyz --json",
        "predict energy-only hydrogen.start.xyz",
        "predict lmax1 ethanol.start.xyz --weights last --batch-size-inference 1",
    ],
    "calibrate": [
        f"calibrate periodic --data alloy-new.xyz --test-data alloy-test.xyz --temperature 600 {RATES} --run-length 20 "
        "--json --overwrite",
    ],
    "calibrate-float32": [
        f"calibrate direct --data water-new.xyz --no-halt {RATES} --seed 1 --overwrite",
    ],
    "simulate": [
        f"simulate conservative water.start.xyz --steps 20 {SHORT} --json --out completed",
        f"simulate direct water.start.xyz --temperature 1500 --steps 40 {SHORT} --uq-threshold 0.148eV/A --replicas 3 "
        "--json --out halted",
        f"simulate direct water.start.xyz --temperature 1500 --steps 20 {SHORT} --uq-threshold 0.1 --on-exceed flag "
        "--extxyz --out flagged",
        "data label halted/flagged.extxyz --calculator emt --out labelled.xyz --json",
        "simulate --resume halted",
    ],
    "simulate-more": [
        f"simulate periodic alloy.start.xyz --relax --steps 10 {SHORT} --uq-threshold flag --extxyz --out alloy",
        f"simulate charged ion.start.xyz --ensemble nve --equilibrate 5fs --time 10fs {SHORT} --replicas 2 "
        "--dtype float64 --json --out ion",
        f"simulate lmax1 ethanol.start.xyz --ensemble nose-hoover --tau 20 --steps 10 {SHORT} --out ethanol",
        "simulate --template",
    ],
    "simulate-resume": [
        "simulate --resume simulation --steps 40 --json",
        "simulate --resume simulation --dt 1",
        "simulate --resume simulation",
    ],
    "compare": [
        "compare direct charged water.start.xyz --data water-test.xyz --steps 20 --equilibrate 5fs --save-every 1 "
        "--compile off --dtype float64 --threads 1 --out compared --json",
    ],
    "data": [
        "data list --json",
        "data list rmd17",
        "data inspect alloy.xyz --json",
        "data inspect water.xyz --against water-new.xyz",
        "data convert alloy.xyz --out alloy.h5",
        "data convert ions.xyz mixed.xyz --out both.xyz",
        "data generate H2 --calculator emt --frames 4 --trajectories 2 --interval 5 --equilibration 10 --out h2.h5 "
        "--json",
        "data label hydrogen.start.xyz --out labelled.h5 --json",
    ],
    "config": ["config template", "bench report --out nothing"],
    "errors": [
        "predict nowhere water.start.xyz",
        "predict conservative absent.xyz",
        "predict conservative ethanol.start.xyz",
        "evaluate conservative --data absent.xyz",
        "evaluate conservative --data bundled:methanol",
        "simulate energy-only water.start.xyz",
        "simulate charged ion.start.xyz --uq-threshold halt",
        "simulate conservative water.start.xyz --uq-threshold 0.2kcal/mol",
        "simulate conservative water.start.xyz --uq-threshold often",
        "simulate conservative water.start.xyz --uq-threshold off --on-exceed flag",
        "simulate conservative water.start.xyz --time 1h",
        "simulate conservative water.start.xyz --time 1 --steps 10",
        "simulate conservative ethanol.start.xyz --steps 2",
        "simulate conservative water.start.xyz --ensemble npt",
        "simulate conservative",
        "simulate --resume conservative",
        "simulate conservative water.start.xyz --out lmax1",
        "train --data absent.npz",
        "train",
        "train --data water.xyz --lr -1",
        "train --data water.xyz --out conservative",
        "train --data water.xyz --learning-rate 0.1",
        "train unknown.yaml",
        "train --resume lmax1 --lr 0.1",
        "train --resume lmax1 --out elsewhere",
        "train --data water.xyz --preset huge",
        "calibrate energy-only --data water-new.xyz",
        "calibrate conservative --data water.xyz --overwrite",
        "calibrate conservative --data water-new.xyz --overwrite",
        "calibrate conservative --data water-new.xyz --false-alarm-rate 0.05 --blocks 2 --overwrite",
        "calibrate conservative --data water-new.xyz --false-alarm-rate 2 --overwrite",
        "compare conservative conservative water.start.xyz",
        "compare direct energy-only water.start.xyz",
        "ipi conservative water.start.xyz --unix equimd-golden-nobody --wait 0",
        "ipi energy-only water.start.xyz --wait 0",
        "ipi charged ion.start.xyz --uq-threshold flag --wait 0",
        "data list nothing",
        "data inspect nothing.xyz",
        "data convert water.xyz --out water-new.xyz",
        "data convert water.xyz --out water.doc",
        "data label water.xyz --calculator nothing --out l.h5",
        "bench accuracy --molecules none",
        "bench accuracy --molecules ethanol --budget soon",
        "config check absent.yaml",
        "trian",
        "predict --json",
    ],
}
#: Ensembles, runs and replicas whose steps are recorded one by one.
DYNAMICS = {
    f"dynamics-{run}": [
        f"simulate {run} {start}.start.xyz --steps 20 --save-every 1 --compile off --uq-threshold off "
        f"--ensemble {ensemble} --replicas {replicas} --temperature 300 --seed 3 --out {ensemble}-{replicas}"
        for ensemble in ("nve", "langevin", "nose-hoover")
        for replicas in (1, 4)
    ]
    for run, start in (("conservative", "water"), ("direct", "water"), ("periodic", "alloy"))
}
COMMANDS = (
    "", "data", "data list", "data fetch", "data inspect", "data convert", "data generate", "data label", "config",
    "config template", "config check", "train", "calibrate", "evaluate", "simulate", "compare", "ipi", "predict",
    "bench", "bench accuracy", "bench speed", "bench report", "bench conservation", "bench calibration",
    "bench detection",
)  # fmt: skip


def scenario(name: str, folder: Path) -> list[dict[str, Any]]:
    """What the commands of a scenario say and leave, in a copy of ``saved/``."""
    shell = Shell(folder)
    lines = SCENARIOS.get(name) or DYNAMICS[name]
    found = [shell.run(*shlex.split(line)) for line in lines]
    if name in DYNAMICS:  # the steps; the rest is in the other scenarios
        return [{"command": f["command"], "exit_code": f["exit_code"], "files": _steps(f["files"])} for f in found]
    return found


def _steps(files: dict[str, Any]) -> dict[str, Any]:
    """Trajectories, of four replicas the first and the last, and the state at the end."""
    kept = ("trajectory.h5md", "0.h5md", "3.h5md", "restart.safetensors")
    return {k: v for k, v in files.items() if k.endswith(kept)}


def options(folder: Path) -> dict[str, list[str]]:
    """The names of all options of every command, and of the commands."""
    shell, out = Shell(folder), {}
    for command in COMMANDS:
        told = shell.run(*command.split(), "--help")
        assert told["exit_code"] == 0, command
        own = [line for line in told["stdout"] if re.match(r" {2}(-\w, )?--", line)]
        names = {name for line in own for name in re.findall(r"(?<!\S)--[a-z][\w-]*", line)}
        out[command or "equimd"] = sorted(names)
    listed = Shell(folder).run("--help")["stdout"]
    out["commands"] = sorted({m[1] for line in listed if (m := re.match(r"  ([a-z]+)\s{2,}\S", line))})
    return out
