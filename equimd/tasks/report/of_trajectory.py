"""The sections of what happened along a trajectory, and what it averages to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.errors import DataError, EquimdError
from equimd.md.ensembles import ENSEMBLES
from equimd.md.observables import LIGHT_CM_PER_FS, vibrational_spectrum
from equimd.md.recorded import Recorded
from equimd.md.trajectory import Columns, trajectory_path
from equimd.shown import with_error
from equimd.tasks.report import layers
from equimd.tasks.report.page import Page, figures, paragraph, table, text
from equimd.tasks.trajectory.measure import MEANS, means, measured, torsion_profiles
from equimd.tasks.trajectory.source import Source, open_source

if TYPE_CHECKING:
    from equimd.tasks.report.of_simulation import ReportedSimulation

POINTS = 600  # of a line
MOST_TORSIONS, MOST_BONDS = 8, 24
EVENTS = 40  # buttons of frames that the guard spoke about


def along(page: Page, s: ReportedSimulation) -> str:
    """Energy, temperature and sigma against time, and the frames that the guard spoke about."""
    more = {"group": f"{s.view}-time", "view": s.view if s.view in page.data else "", "replicas": s.view}
    given, columns = s.summary["settings"], s.columns
    ends = [float(c.time[-1]) / 1000 for c in columns.values()] + [h["time_ps"] for h in s.summary["halted"]]
    time = {"label": "time (ps)", "from": 0, "to": max(ends)}
    energy: list[layers.Layer] = []
    heat: list[layers.Layer] = []
    for r, c in columns.items():
        own: dict[str, Any] = {"replica": r} if s.several else {}
        for name, colour, shown in (
            ("potential_energy", "blue", "potential"), ("conserved", "ink", "conserved quantity")
        ):  # fmt: skip
            energy.append(_line(c, c.observables[name] - c.observables[name][0], colour, shown, **own))
        heat.append(_line(c, c.observables["temperature"], "blue", "temperature", **own))
    every = np.concatenate([c.observables["temperature"] for c in columns.values()])
    heat.append(layers.level(float(every.mean()), "grey", f"mean {every.mean():.0f} K"))
    if ENSEMBLES[given["ensemble"]].bath:
        heat.append(layers.level(given["temperature"], "red", f"bath {given['temperature']:g} K"))
    made = [
        page.plot("Energy", time, {"label": "from the start (eV)"}, energy, **more),
        page.plot("Temperature", time, {"label": "temperature (K)", "from": 0}, heat, **more),
    ]
    if s.threshold is not None:
        made.append(_sigma(page, s, time, more))
    told = "A click in these plots shows its frame in 3D. " if s.view in page.data else ""
    if s.several:
        told += f"Lines of the replica that is chosen; faint, those of the other {len(columns) - 1}."
    damaged = "".join(f'<p class="missing">{text(line)}</p>' for line in s.damaged)
    return damaged + (paragraph(told) if told else "") + _events(page, s) + figures(*made)


def _sigma(page: Page, s: ReportedSimulation, time: Mapping[str, Any], more: Mapping[str, Any]) -> str:
    drawn: list[layers.Layer] = []
    for r, c in s.columns.items():
        own: dict[str, Any] = {"replica": r} if s.several else {}
        sigma, flagged = c.observables["force_sigma"], c.observables["flagged"] > 0
        drawn.append(_line(c, sigma, "blue", "force sigma", of="max", **own))
        if flagged.any():
            drawn.append(layers.points(c.time[flagged] / 1000, sigma[flagged], "amber", "flagged frames", **own))
        halts = [h for h in s.summary["halted"] if h["replica"] == r and h["code"] == "force sigma" and h["score"]]
        for h in halts:
            last = [c.time[-1] / 1000, h["time_ps"]], [sigma[-1], h["score"]]
            drawn.append(layers.line(*last, "red", **own))
            drawn.append(layers.points(last[0][1:], last[1][1:], "red", "halt: frame refused", mark="cross", **own))
    uq = s.summary["uncertainty"]
    if "flag" in uq:
        drawn.append(layers.level(uq["flag"]["threshold"], "amber", f"flags above {uq['flag']['threshold']:.3g}"))
    drawn.append(layers.level(uq["threshold"], "red", f"{uq['action']}s above {uq['threshold']:.3g}"))
    axis = {"label": "sigma (eV/Å)", "from": 0}
    return page.plot("Largest force sigma of a frame", time, axis, drawn, **more)


def _line(c: Columns, y: np.ndarray, colour: str, name: str, of: str = "mean", **own: Any) -> layers.Layer:
    """A line of at most ``POINTS`` points: the mean or the largest of each stretch of time."""
    return layers.line(*c.thinned(y, POINTS, of), colour, name, **own)


def _events(page: Page, s: ReportedSimulation) -> str:
    """A button for each frame that the guard spoke about, which shows it."""
    if s.view not in page.data:
        return ""
    made, many = [], s.several
    for r in page.data[s.view]["replicas"]:
        marked = [k for k, mark in enumerate(r["mark"]) if ":" in mark] or [k for k, m in enumerate(r["mark"]) if m]
        for k in marked[:EVENTS]:
            what, _, reason = r["mark"][k].partition(": ")
            kind = "halt" if what == "refused" else "flag"
            where = f"replica {r['replica']}, " * many + f"step {r['step'][k]:,} ({r['time'][k]:g} ps)"
            made.append(
                f'<button type="button" class="{kind}" data-replica="{r["replica"]}" data-frame="{k}">'
                f"{text(f'{what}: {where}' + (f', {reason}' if reason else ''))}</button>"
            )
    if not made:
        return ""
    return (
        f'<div class="events" data-view="{s.view}" role="group" aria-label="Frames to look at">{"".join(made)}</div>\n'
    )


def observables(s: ReportedSimulation) -> str:
    """Means with their sampling errors, and what the summary states."""
    summary = s.summary
    bonds, rows = summary["bonds"], _means(s)
    if (drift := summary["drift_meV_per_atom_per_ps"]) is not None:
        name = f"drift of the {summary['conserved_quantity']} (meV/atom/ps)"
        rows.append([name, with_error(drift, summary["drift_error"])])
    worst = max((r["largest_deviation_A"] for r in bonds["replicas"]), default=None)
    if worst is not None:
        rows.append(["largest change of a bond (Å)", f"{worst:.2f}"])
    rows.append(
        [
            f"replicas with a bond changed by more than {bonds['tolerance_A']:g} Å",
            f"{bonds['n_unstable']} of {summary['n_replicas']}",
        ]
    )
    for entry in ("n_frames", "n_flagged", "n_flagged_steps"):
        name = {"n_frames": "saved frames", "n_flagged": "flagged events", "n_flagged_steps": "flagged steps"}[entry]
        rows.append([name, f"{summary[entry]:,}"])
    rows.append(["halted replicas", f"{len(summary['halted'])} of {summary['n_replicas']}"])
    if (rate := summary["ns_per_day_total"]) is not None:
        rows.append(["speed (ns/day, all replicas)", f"{rate:.3g}"])
    return table(["", "value"], rows) + _with_errors_of_the_model(s)


def _with_errors_of_the_model(s: ReportedSimulation) -> str:
    """Mean energy, bonds and conformers, ± model ± sampling, or why there are no errors of the model."""
    try:
        found = measured(open_source(s.folder))
    except EquimdError as error:
        return paragraph(f"No errors of the model: {error.what}.")
    if found.model is None:
        return paragraph(f"No errors of the model: {found.no_model}.")
    energy = (
        {"mean potential energy (eV)": found.means["potential_energy"]} if "potential_energy" in found.means else {}
    )
    known = energy | {f"bond {b.name} (Å)": b.length for b in found.bonds[:MOST_BONDS]}
    rows = [[name, of.told(3)] for name, of in known.items()]
    for torsion in found.torsions[:MOST_TORSIONS]:
        for w in torsion.wells:
            rows.append([f"{torsion.name} near {w.centre:.0f}° (%)", w.population.told(0, times=100)])
    about = ". ".join(line[:1].upper() + line[1:] for line in found.model.words())
    return table(["", "value ± model ± sampling"], rows) + paragraph(f"{about}.")


def _means(s: ReportedSimulation) -> list[list[str]]:
    """Of a damaged trajectory, the temperature that the summary has."""
    try:
        found = means(list(s.columns.values()), [])
    except DataError:
        found = {}
    if found:
        told = {key: f"mean {key.replace('_', ' ')} ({unit.replace('A', 'Å')})" for key, unit in MEANS.items()}
        return [[told[key], with_error(of.mean, of.error, 3)] for key, of in found.items()]
    mean = s.summary["temperature_K_mean"]
    return [] if mean is None else [["mean temperature (K)", f"{mean:.1f}"]]


def distances(page: Page, summary: Mapping[str, Any]) -> str:
    """h(r)."""
    found = summary.get("distances")
    if not found:
        raise DataError("h(r) is kept of open molecules with saved frames alone")
    drawn = [layers.line(found["r_A"], found["h_per_A"], "blue")]
    axes = {"label": "distance between two atoms (Å)"}, {"label": "h(r) (1/Å)", "from": 0}
    return figures(page.plot("Distribution of distances, h(r)", *axes, drawn))


def vibrations(page: Page, summary: Mapping[str, Any]) -> str:
    """The vibrational density of states, and the velocity autocorrelation that it is the transform of."""
    found = summary.get("velocity_autocorrelation")
    if not found or len(found["time_fs"]) < 8:
        raise DataError("too few frames were saved for a velocity autocorrelation")
    time, c = np.array(found["time_fs"]), np.array(found["c"])
    wavenumber, density = vibrational_spectrum(time, c)
    seen = wavenumber <= 4500
    note = f"Near 0: the molecule as a whole turns. Resolution about {1 / (LIGHT_CM_PER_FS * time[-1]):.0f} 1/cm."
    if wavenumber[-1] < 4000:
        note += (
            f" Frames were saved every {time[1]:g} fs: vibrations above {wavenumber[-1]:.0f} 1/cm, such as those of "
            "bonds to hydrogen, appear folded back below it; a smaller --save-every shows them in their place."
        )
    drawn = [layers.line(wavenumber[seen], 1e3 * density[seen], "violet")]
    axes = {"label": "wavenumber (1/cm)", "from": 0}, {"label": "density of states (10⁻³ cm)", "from": 0}
    made = page.plot("Vibrational density of states", *axes, drawn, note=note)
    lags = [layers.line(time, c, "green"), layers.level(0.0, "grey")]
    return figures(made, page.plot("Velocity autocorrelation", {"label": "lag (fs)"}, {"label": "C(t)"}, lags))


def torsion_angles(page: Page, s: ReportedSimulation) -> str:
    """How the angles about single bonds are distributed, over all replicas."""
    runs = {r: Recorded.of(trajectory_path(s.folder, r, s.summary["n_replicas"])) for r in s.columns}
    found = torsion_profiles(Source(str(s.folder), s.start.system(), s.start.reference.numpy(), runs))
    if not found:
        raise DataError("the molecule has no bond about which a turn gives another conformer")
    made = []
    for torsion in found[:MOST_TORSIONS]:
        drawn = [layers.line(torsion.angle, 100 * torsion.share, "amber")]
        axes = {"label": "angle (degrees)", "from": -180, "to": 180}, {"label": "share in 5° (%)", "from": 0}
        made.append(page.plot(torsion.name.replace("-", "–"), *axes, drawn))
    left = f" The first {MOST_TORSIONS} of {len(found)}." if len(found) > MOST_TORSIONS else ""
    return paragraph(f"Angles about single bonds, 0° where the outer atoms are on one side.{left}") + figures(*made)
