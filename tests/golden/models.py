"""What the saved runs answer: predictions, sigmas, the ASE calculator, thresholds, and the decisions of the guard."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

import equimd
from equimd.errors import EquimdError, GuardError
from tests.golden import adapter
from tests.golden.frames import judged, moved, ordinary, start_of

CALIBRATED = ("conservative", "direct", "periodic")
FIELDS = ("energy", "forces", "energy_std", "forces_std", "atom_forces_std", "score", "flagged", "atom")
#: Amplitudes of the frames that are predicted, Angstrom.
AMPLITUDES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
#: Error bounds in the midst of the scores of ordinary frames.
TIGHT = {"conservative": "0.133eV/A", "direct": "0.07eV/A", "periodic": "0.0905eV/A"}
#: Sizes of the batches of one rule, 60 frames in all.
BATCHES = (1, 2, 3, 4, 6, 8, 16, 20)
#: A score so near its threshold that rounding may decide has no place in a record.
MARGIN = 1e-4


def predictions(run: str, folder: Path) -> dict[str, Any]:
    """Of ``equimd.load(run)`` and its calculator, for a few frames."""
    start = start_of(run, folder)
    frames = [_at(start, moved(start, k, a)) for k, a in enumerate(AMPLITUDES)]
    model = equimd.load(folder / run)
    found = model.predict(frames, batch_size=4)
    out: dict[str, Any] = {
        name: None if getattr(found[0], name) is None else np.array([getattr(p, name) for p in found])
        for name in FIELDS
    }
    without = model.predict(frames[1], uncertainty=False)
    out["alone"] = {"energy": without.energy, "energy_std": without.energy_std}
    out["has_forces"] = model.has_forces
    out["model"] = model.config.model_dump(mode="json")
    out["calculator"] = _calculator(model.calculator(), frames, run in CALIBRATED)
    if (folder / run / "last.safetensors").is_file():
        out["last"] = [p.energy for p in equimd.load(folder / run, which="last").predict(frames)]
    if run in CALIBRATED:
        out["thresholds"] = adapter.thresholds(folder / run)
        out["decisions"] = [_decided(model, folder / run, frames, rule) for rule in (None, "halt", "0.4eV/A")]
    return out


def _at(start: Atoms, positions: np.ndarray) -> Atoms:
    atoms = start.copy()
    atoms.positions = positions
    return atoms


def _calculator(calculator: Any, frames: list[Atoms], calibrated: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"properties": list(calculator.implemented_properties)}
    names = ["energy", "forces", *(("energy_std", "forces_std", "atom_forces_std") if calibrated else ())]
    for name in names:
        try:
            out[name] = np.array([calculator.get_property(name, atoms) for atoms in frames])
        except EquimdError as error:
            out[name] = str(error)
    return out


def _decided(model: Any, run: Path, frames: list[Atoms], threshold: str | None) -> dict[str, Any]:
    """``uncertainty(atoms)``: of the flag threshold, or of another one."""
    calculator = model.calculator()
    rule = () if threshold is None else (adapter.calculator_rule(run, threshold),)
    found = [calculator.uncertainty(atoms, *rule) for atoms in frames]
    return {
        "score": np.array([s.score for s in found]),
        "threshold": [s.threshold for s in found],
        "exceeded": [bool(s.exceeded) for s in found],
        "atom": [s.atom for s in found],
        "exact": [s.atom_forces_std is not None for s in found],
        "energy_std": np.array([s.energy_std for s in found]),
    }


def guarded(run: str, folder: Path) -> dict[str, Any]:
    """The ASE calculator with a guard: what passes, what is refused and why, what is warned of."""
    start = start_of(run, folder)
    x, _ = judged(start, 9)
    kept = np.isfinite(x).all((1, 2))  # ASE's own checks refuse the rest
    frames = [start.copy(), *(_at(start, p) for p in x[kept])]
    model = equimd.load(folder / run)
    out: dict[str, Any] = {}
    for threshold in ("auto", "0.4eV/A", "off"):
        if run not in CALIBRATED and threshold != "off":
            continue
        calculator = model.calculator(on_exceed="halt", threshold=threshold)
        out[f"raise {threshold}"] = [_refusal(calculator, atoms) for atoms in frames]
        calculator = model.calculator(on_exceed="flag", threshold=threshold)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            energies = [calculator.get_property("energy", atoms) for atoms in frames]
        out[f"warn {threshold}"] = {"energy": np.array(energies), "said": [str(w.message) for w in caught]}
    return out


def _refusal(calculator: Any, atoms: Atoms) -> Any:
    try:
        calculator.get_property("forces", atoms)
    except GuardError as error:
        return {
            "what": error.what, "where": error.where, "hint": error.hint, "code": error.code,
            "atoms": list(error.atoms), "score": error.score, "threshold": error.threshold,
            "responsible": error.structure.arrays["responsible"].tolist(),
            "atom_score": error.structure.arrays["atom_score"],
        }  # fmt: skip
    return "taken"


def decisions(run: str, folder: Path) -> list[dict[str, Any]]:
    """60 decisions for each rule, in batches as of replicas: events, scores, per-atom scores."""
    rules = [("off", "halt")]  # the physical checks alone
    if run in CALIBRATED:
        rules += [("halt", "halt"), ("flag", "flag"), ("0.4eV/A", "halt"), (TIGHT[run], "flag")]
    start, out = start_of(run, folder), []
    for threshold, action in rules:
        judge = adapter.Judge(folder / run, start, threshold, action)
        x, spoiled = judged(start, sum(BATCHES))
        if threshold == TIGHT.get(run):
            x, spoiled = ordinary(start, sum(BATCHES)), []
        first, parts = 0, []
        for count in BATCHES:
            rows = range(first, first + count)
            parts.append(judge(x[first : first + count], [(k - first, name) for k, name in spoiled if k in rows]))
            first += count
        out.append({"threshold": threshold, "action": action, **_joined(parts)})
    return out


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    events = [[_plain(e) for e in p["events"]] for p in parts]
    scores = np.concatenate([p["scores"] for p in parts])
    return {"events": events, "scores": scores, "atom_scores": np.concatenate([p["atom_scores"] for p in parts])}


def _plain(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "atoms": list(event["atoms"])}


def count_decisions(found: list[dict[str, Any]]) -> int:
    """How many frames were judged."""
    return sum(len(each["scores"]) for each in found)


def check_margins(found: list[dict[str, Any]]) -> None:
    """Raise ValueError where a score is so near its threshold that another CPU might decide otherwise."""
    for each in found:
        limits = {e["threshold"] for part in each["events"] for e in part if e["code"] == "force sigma"}
        for limit in limits:
            near = np.abs(each["scores"] / limit - 1.0) < MARGIN
            if near.any():
                raise ValueError(f"scores {each['scores'][near]} are too near {limit}: change the frames")
