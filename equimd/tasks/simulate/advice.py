"""What to do after a run: the last line that is printed, with a command that goes on from there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from equimd.errors import EquimdError
from equimd.guard.calibration import Calibration
from equimd.guard.saved import is_calibrated, load_calibration
from equimd.guard.score import SCORE_NAME
from equimd.guard.wording import percent
from equimd.md.simulation import SUSPECTS_FILE
from equimd.run import Run, free_name
from equimd.shown import counted
from equimd.tasks.simulate.session import Session
from equimd.tasks.simulate.suspects import BEFORE_FILE

BARELY = 1.1  # times the threshold: a score up to this may well be an ordinary run's largest
METHOD = "METHOD_OF_THE_TRAINING_DATA"  # labels of two methods in one data set spoil a model


def last_words(session: Session, summary: Mapping[str, Any], folder: Path, run: str) -> str:
    """The last line of a run: what happened, when, by how much, and what to type next."""
    if summary["status"] == "interrupted":
        return f"interrupted after {summary['time_ps']:.3f} ps; go on with: equimd simulate --resume {folder}"
    flagged = summary["n_flagged"]
    if summary["status"] == "completed":
        done = f"completed {summary['time_ps']:g} ps in {folder}"
        if not flagged:
            return done
        events = f"{counted(flagged, 'event')} flagged in {counted(summary['n_flagged_steps'], 'step')}"
        rate = summary["uncertainty"].get("flag")
        if rate is not None and summary["flagged_share"] <= rate["interval"][1]:
            return f"{done}, {events}: no more than of ordinary frames"
        return f"{done}, {events}.\nNext: {next_command(session, folder, run, halted=False)}"
    halts = summary["halted"]
    first = halts[0]
    which = f"replica {first['replica']}"
    if len(halts) > 1:
        which = f"{len(halts)} of {summary['n_replicas']} replicas, first {which}"
    advice = "a smaller --dt" if first["code"] == "drift" else next_command(session, folder, run)
    return (
        f"halted: {which} at step {first['step']} ({first['time_ps']:.3f} ps), {_by_how_much(first, session)}; the "
        f"last good frames are in {folder}.{_false_alarm(session, halts)}\nNext: {advice}"
    )


def _by_how_much(halt: Mapping[str, Any], session: Session) -> str:
    from ase.symbols import Symbols

    symbols = Symbols(session.system.numbers.cpu().numpy())
    text, score = halt["reason"], halt["score"]
    if halt["code"] == SCORE_NAME and math.isfinite(score):
        text += f" ({score / halt['threshold']:.2f} times it)"
    if halt["atoms"] and math.isfinite(score):
        text += f", atom{'s' * (len(halt['atoms']) > 1)} " + ", ".join(f"{symbols[i]}{i}" for i in halt["atoms"])
    return text


def _false_alarm(session: Session, halts: list[dict[str, Any]]) -> str:
    """A sentence where halts are likely false: scores barely above a threshold whose rate holds for this run."""
    watch = session.watch
    rate = watch.about.get("false_halt_bound")
    barely = all(h["code"] == SCORE_NAME and h["score"] <= BARELY * h["threshold"] for h in halts)
    if rate is None or watch.warnings or not barely or len(halts) > max(1.0, rate * len(session.replicas)):
        return ""
    return (
        f" Likely a false alarm: the score is barely above the threshold, and up to {percent(rate)} of such runs halt "
        "by mistake; labels of the frame would tell."
    )


def next_command(session: Session, folder: Path, run: str, *, halted: bool = True) -> str:
    """One line that makes training data of what the guard spoke about, a better model of them, and goes on with it."""
    opened = Run.open(run)
    dataset, labelled = opened.config.dataset, folder / "labelled.h5"
    frames = [folder / SUSPECTS_FILE, *([before] if (before := folder / BEFORE_FILE).is_file() else [])]
    label = f"equimd data label {' '.join(quote(str(f)) for f in frames)} --out {quote(str(labelled))}"
    method = _method(dataset.data)
    label += "" if method == "tblite" else f" --calculator {method}"
    new = free_name(re.sub(r"-\d{3}$", "", Path(run).name), Path(run).parent)
    train = f"equimd train --init {quote(run)}"
    parts = {"data": (*dataset.data, labelled), "val-data": dataset.val_data, "test-data": dataset.test_data}
    train += "".join(f" --{key} {quote(str(name))}" for key, names in parts.items() for name in names)
    train += "".join(f" --{k}-unit {unit}" for k in ("energy", "length") if (unit := getattr(dataset, f"{k}_unit")))
    train += f" --out {quote(str(new))}"
    go_on = f"equimd simulate --continue {quote(str(folder))} --run {quote(str(new))}"
    return " && ".join([label, train, *_calibrate(session, opened, new), *([go_on] if halted else [])])


def _method(names: tuple[str, ...]) -> str:
    """What labelled the training data, where they say so: stores alone do, whose frames need not be read for it."""
    import h5py

    from equimd.data.given import BUNDLED, open_given

    if all(name.startswith(BUNDLED) for name in names):
        return "tblite"
    if not all(name.startswith(BUNDLED) or h5py.is_hdf5(name) for name in names):
        return METHOD
    try:
        known = {str(open_given(name).info.extra.get("calculator", "")) for name in names}
    except (EquimdError, OSError):
        return METHOD
    return known.pop() or METHOD if len(known) == 1 else METHOD


def _calibrate(session: Session, run: Run, new: Path) -> list[str]:
    """The calibration of the run, once more for the new one."""
    if not is_calibrated(run.path):
        return []
    c = load_calibration(run.path, session.identity["model_sha256"], session.watch.about.get("calibration"))
    names = c.report.get("data") or ["CALIBRATION_FRAMES"]
    options = "".join(f" --data {quote(name)}" for name in names)
    for key, value in _asked(c).items():
        options += f" --{key} {value:g}" if not isinstance(value, str) else f" --{key} {value}"
    return [f"equimd calibrate {quote(str(new))}{options}" + ("" if c.halt else " --no-halt")]


def _asked(c: Calibration) -> dict[str, float | str]:
    """The settings that a calibration was made with, as far as it tells."""
    point, halt = c.state_point, c.halt
    usual = point.name(None if halt is None else halt.run_length)
    found: dict[str, float | str | None] = {
        "name": None if c.called == usual else c.called,
        "false-alarm-rate": c.flag.alpha, "temperature": point.temperature_K, "ensemble": point.ensemble,
        "dt": point.dt_fs, "friction": point.friction_per_fs, "score-every": point.score_every,
    }  # fmt: skip
    if halt is not None:
        found |= {"false-halt-rate": halt.alpha, "run-length": halt.run_length, "blocks": halt.n_blocks}
    return {key: value for key, value in found.items() if value is not None}
