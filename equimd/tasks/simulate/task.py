"""Run a simulation to its end, a halt or Ctrl-C, and write what it amounts to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from equimd.files import versions, write_json
from equimd.guard.flags import SuspectFrame
from equimd.guard.score import StepScore
from equimd.guard.wording import percent
from equimd.interrupts import stop_signals
from equimd.md.ensembles import ENSEMBLES
from equimd.md.recorded import Recorded
from equimd.md.simulation import Simulation
from equimd.md.structures import write_extxyz
from equimd.md.summary import summarize
from equimd.md.trajectory import trajectory_path
from equimd.notices import doing
from equimd.progress import Callback
from equimd.shown import counted, with_error
from equimd.tables import Table, facts
from equimd.tasks.simulate import plot
from equimd.tasks.simulate.progress import SimulationProgress
from equimd.tasks.simulate.session import Session
from equimd.tasks.simulate.suspects import write_frames_before

SUMMARY_FILE, PLOT_FILE = "summary.json", "simulation.png"


def execute(
    session: Session, start: Callable[[], Simulation], folder: Path, progress: Callback | None = None
) -> dict[str, Any]:
    """Begin or go on (``start`` does it), and finish. Returns the summary, which is written as summary.json, too.

    Raises:
        MachineError: the disk is full; what was written is intact, and the run can be gone on with.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(session.identity["threads"])
    until = session.settings.n_steps
    try:
        with stop_signals() as stopped:
            simulation = start()
            told = SimulationProgress(simulation, until, progress)
            try:
                simulation.run(until, observer=told, stop=stopped)
            finally:
                told.end()
    finally:
        torch.set_num_threads(before)
    doing("writing the summary")
    interrupted = simulation.state.step < until and any(simulation.state.active)
    summary = _summary(session, simulation, folder, interrupted, told.rates(simulation))
    write_json(folder / SUMMARY_FILE, summary)
    paths = _paths(simulation, folder)
    state, halts = session.output(folder).info, simulation.suspects.halts
    write_frames_before(folder, session.system, halts, paths, state)
    plot.simulation(paths, folder / PLOT_FILE, judge=session.judge, halts=halts)
    if session.settings.extxyz:
        for path in paths.values():
            write_extxyz(Recorded.of(path), session.system, path.with_suffix(".extxyz"), state)
    return summary


def _paths(simulation: Simulation, folder: Path) -> dict[int, Path]:
    """Trajectories there are, by replica."""
    replicas = simulation.state.replicas
    paths = {r: trajectory_path(folder, r, len(replicas)) for r in replicas}
    return {r: p for r, p in paths.items() if p.is_file()}


def _summary(
    session: Session,
    simulation: Simulation,
    folder: Path,
    interrupted: bool,
    rates: tuple[float | None, float | None],
) -> dict[str, Any]:
    """summary.json: the contract's keys first."""
    s, state, suspects = session.settings, simulation.state, simulation.suspects
    halts = suspects.halts
    found = summarize(list(_paths(simulation, folder).values()), session.limits)
    return {
        "status": "interrupted" if interrupted else "halted" if halts else "completed",
        "steps": state.step,
        "time_ps": state.step * s.dt / 1000,
        "ns_per_day": rates[0],
        "ns_per_day_total": rates[1],
        "temperature_K_mean": found.pop("temperature_K_mean"),
        "drift_meV_per_atom_per_ps": found.pop("drift_meV_per_atom_per_ps"),
        "drift_error": found.pop("drift_error"),
        "n_flagged": suspects.n_flagged,
        "halted": [_halt(h, s.dt) for h in halts],
        "n_flagged_steps": suspects.flagged_steps,
        **_flagged(session, simulation),
        "n_replicas": len(state),
        "n_atoms": session.system.n_atoms,
        "degrees_of_freedom": session.dof,
        "conserved_quantity": ENSEMBLES[s.ensemble].conserved,
        "compiled": bool(session.forces.compiled),
        "uncertainty": {**session.watch.about, **_exact_share(session)},
        "warnings": session.warnings,
        "settings": s.model_dump(mode="json"),
        **session.identity,
        "versions": versions(),
        **found,
    }


def _flagged(session: Session, simulation: Simulation) -> dict[str, Any]:
    """Which flag was the first, and the share of all judged frames that were flagged."""
    flags = [f for f in simulation.suspects.frames() if f.action == "flag"]
    first = min(flags, key=lambda f: (f.start, f.replica), default=None)
    count, told = getattr(session.judge.score, "count", 0), None
    if first is not None:
        told = {"replica": first.replica, "step": first.start, "time_ps": first.start * session.settings.dt / 1000}
    return {"first_flagged": told, "flagged_share": simulation.suspects.flagged_steps / count if count else None}


def _exact_share(session: Session) -> dict[str, float]:
    """How often the screen left the decision to the exact covariance."""
    score = session.judge.score
    return {"exact_share": score.exact_count / score.count} if isinstance(score, StepScore) and score.count else {}


def _halt(h: SuspectFrame, dt: float) -> dict[str, Any]:
    return {
        "replica": h.replica,
        "step": h.step,
        "time_ps": h.step * dt / 1000,
        "reason": h.reason,
        "code": h.code,
        "score": h.score,
        "threshold": h.threshold,
        "atoms": list(h.atoms),
    }


def flags_in_words(summary: Mapping[str, Any]) -> str:
    """How much was flagged, since when, and how much ordinarily is."""
    events, uq, first = summary["n_flagged"], summary["uncertainty"], summary.get("first_flagged")
    text = f"{counted(events, 'event')}, {counted(summary['n_flagged_steps'], 'step')}"
    rate = uq.get("flag") or (uq if uq["mode"] == "flag" else None)
    if summary.get("flagged_share") is not None and rate is not None:
        text += f" ({percent(summary['flagged_share'])} of frames; of ordinary ones {percent(rate['alpha'])} are)"
    return text if first is None else f"{text}, first at {first['time_ps']:g} ps"


def table(summary: Mapping[str, Any]) -> Table:
    """The result in a few lines."""

    def number(key: str, form: str, unit: str) -> str:
        value = summary[key]
        return "n/a" if value is None else f"{value:{form}} {unit}".rstrip()

    drift = number("drift_meV_per_atom_per_ps", ".4f", "meV/atom/ps")
    if summary["drift_error"] is not None:
        drift = with_error(summary["drift_meV_per_atom_per_ps"], summary["drift_error"], 4) + " meV/atom/ps"
    bonds, uq = summary["bonds"], summary["uncertainty"]
    worst = max((r["largest_deviation_A"] for r in bonds["replicas"]), default=0.0)
    unstable = f", {bonds['n_unstable']} unstable" if bonds["n_unstable"] else ""
    speed = ""
    if summary["ns_per_day"] is not None:  # not where all steps were there already
        speed = f", {number('ns_per_day', '.3g', 'ns/day')}"
        if summary["n_replicas"] > 1:
            speed += f" each, {number('ns_per_day_total', '.3g', 'ns/day')} in all"
    rows = [
        ("status", summary["status"]),
        ("time", f"{summary['time_ps']:g} ps" + speed),
        ("temperature", number("temperature_K_mean", ".1f", "K")),
        ("drift", f"{drift} ({summary['conserved_quantity']})"),
        ("bonds", f"within {worst:.2f} A of the start" + unstable),
    ]
    if uq["mode"] != "off":
        rows.append(("flagged", flags_in_words(summary)))
        rows.append(("halted", f"{len(summary['halted'])} of {summary['n_replicas']}"))
    return facts(rows)
