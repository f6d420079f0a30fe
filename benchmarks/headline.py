"""What README and docs say of speed, trust and presets: a few figures of the suites, read from their results files.

``python -m equimd.benchmarks.headline`` prints it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from equimd.benchmarks.accuracy.accuracy_suite import row_variant
from equimd.benchmarks.accuracy.accuracy_tables import RMD17, duration
from equimd.benchmarks.options import PEERS
from equimd.benchmarks.speed.speed_tables import NAMES
from equimd.config import PRESETS

Rows = Mapping[str, Mapping[str, Any]]

STEPS = {"10/train": "training step of 10 frames", "1/md": "step of dynamics", "32/md": "step of 32 replicas at once"}
PAIR = ("ethanol", "aspirin")
AT_HOME = {
    "rmd17/ethanol/01": "rMD17 ethanol",
    "rmd17/aspirin/01": "rMD17 aspirin",
    "acac/acetylacetone/300K": "acetylacetone 300 K",
    "bundled/ethanol/300K": "bundled ethanol 300 K",
}
HOTTER = {
    "acac/acetylacetone/600K": "acetylacetone 600 K",
    "bundled/ethanol/600K": "bundled ethanol 600 K",
    "bundled/ethanol/1000K": "bundled ethanol 1000 K",
}
RULES = {"bound": "error bound", "flag": "flag threshold", "halt": "halt threshold"}


def read(folder: Path, *suites: str) -> Rows:
    """Rows of these suites by name; of a suite without results, none."""
    paths = (folder / f"{suite}.json" for suite in suites)
    return {row["name"]: row for path in paths if path.is_file() for row in json.loads(path.read_text())["rows"]}


def face(folder: Path) -> str:
    """README's table: what was measured, of which model, and what stands beside it; a missing figure reads -."""
    # accuracy last: conservation has rows of the same names, of its own models
    rows = read(folder, "speed", "conservation", "calibration", "detection", "accuracy")
    return _table(
        ["ethanol / aspirin", "model", "equimd", "beside it"], [*_errors(rows), *_steps(rows), *_trusted(rows)]
    )


def _errors(rows: Rows) -> Iterable[list[str]]:
    told = (("force", "forces_mae_meV_per_A", "meV/A", ".1f", 1), ("energy", "energy_mae_meV", "meV", ".2f", 0))
    for what, metric, unit, form, column in told:
        own, painn = (_pair(rows, f"rmd17/{{}}/01/{of}/{metric}", form) for of in ("conservative", "schnetpack-painn"))
        mace = " / ".join(RMD17["MACE"][molecule][column] for molecule in PAIR)
        model = _model(rows, f"rmd17/ethanol/01/conservative/{metric}")
        beside = f"SchNetPack PaiNN, as long: {painn}; MACE, published: {mace}"
        yield [f"{what} error (MAE), rMD17", model, f"{own} {unit}", beside]


def _steps(rows: Rows) -> Iterable[list[str]]:
    own, *peers = (_pair(rows, f"speed/{{}}/1/md/wall_ms_{of}", ".1f") for of in ("equimd-guard", "nequip", "mace"))
    settings = rows.get("speed/ethanol/1/md/wall_ms_equimd-guard", {"preset": ""})["preset"]
    model = next((f"`{name}`" for name, has in PRESETS.items() if f", lmax {has.get('lmax')}," in settings), "-")
    beside = "unguarded NequIP {}, MACE {}".format(*peers)
    yield ["step of guarded dynamics, one thread", model, f"{own} ms", beside]
    drift = "rmd17/{{}}/01/{}/nve_float32_drift_bound".format
    own, direct = (_pair(rows, drift(of), ".2g") for of in ("conservative", "direct"))
    model = _model(rows, drift("conservative").format("ethanol"))
    yield ["energy drift at 300 K, 100 ps", model, f"{own} meV/atom/ps at most", f"direct forces: {direct}"]


def _trusted(rows: Rows) -> Iterable[list[str]]:
    covered = "rmd17/{{}}/01/{}/forces_coverage_95".format
    own, others = (_pair(rows, covered(of), ".1%").replace("%", " %") for of in ("last-layer", "ensemble-3"))
    model = _model(rows, covered("last-layer").format("ethanol"))
    yield ["force errors within their 95 % region", model, own, f"ensemble of 3: {others}"]
    hot = "bundled/ethanol/1000K/{}/forces_coverage_95".format
    own, others = (_value(rows, hot(of), ".1%").replace("%", " %") for of in ("last-layer", "ensemble-4"))
    model = _model(rows, hot("last-layer"))
    yield ["the same at 1000 K, trained and calibrated at 300 K (ethanol)", model, own, f"ensemble of 4: {others}"]
    name = next((n for n in rows if "/300K/last-layer/false_halts_of_" in n), "-")
    runs, _, asked = name.rpartition("_of_")[2].removesuffix("_percent").partition("_runs_at_")
    row = rows.get(name, {"per_seed": {}, "interval": ("-", "-")})
    halts = ", ".join(f"{v:g}" for v in row["per_seed"].values()) or "-"
    expected = "{} to {} expected".format(*row["interval"])
    yield [f"ordinary runs halted, {asked} % asked for (ethanol)", _model(rows, name), f"{halts} of {runs}", expected]
    told = ("before_physical", "before_bad")
    halt, bound = ([_value(rows, f"bundled/ethanol/1000K/{of}/{m}", "g") for m in told] for of in ("halt", "bound"))
    title = "halted at 1000 K before the molecule broke; by the first bad frame (ethanol)"
    found = f"{halt[0]}; {halt[1]} of {_value(rows, 'bundled/ethanol/1000K/guard/runs', 'g')} runs"
    model = _model(rows, "bundled/ethanol/1000K/halt/before_bad")
    yield [title, model, found, f"threshold set as an error bound: {bound[0]}; {bound[1]}"]


def _pair(rows: Rows, name: str, form: str) -> str:
    """The values of both molecules of ``PAIR``, whose place in the row's name is {}."""
    return " / ".join(_value(rows, name.format(molecule), form) for molecule in PAIR)


def _model(rows: Rows, name: str) -> str:
    """Preset and training time of the model of a row."""
    if name not in rows:
        return "-"
    row = rows[name]
    return f"`{row['preset'].partition(',')[0]}`, {duration(row['budget_s'])}"


def speed(folder: Path) -> str:
    """How many times longer the peers take, as a Markdown table; a figure that is missing reads -."""
    rows = read(folder, "speed")
    heads = ["on ethanol / aspirin", *(NAMES[peer] for peer in PEERS)]
    lines = []
    for step, title in STEPS.items():
        cells = [[_value(rows, f"speed/{m}/{step}/ratio_vs_{peer}", ".1f") for m in PAIR] for peer in PEERS]
        lines.append([title, *(" / ".join(c) for c in cells)])
    target = [
        _value(rows, f"speed/ethanol/10/target/target_ratio_{at}_vs_schnetpack", ".1f") for at in ("cold", "warm")
    ]
    words = f"{target[0]} at first, {target[1]} with its code compiled before"
    lines.append(["training until 10 meV/A (ethanol)", words, *["-"] * (len(PEERS) - 1)])
    return _table(heads, lines)


def presets(folder: Path) -> str:
    """What each preset takes and reaches on rMD17, as a Markdown table; a figure that is missing reads -."""
    rows = read(folder, "accuracy")
    metric = "forces_mae_meV_per_A"
    molecules = sorted({name.split("/")[1] for name in rows if name.startswith("rmd17/") and "/01/" in name})
    lines = []
    for preset, settings in PRESETS.items():
        variant = row_variant("conservative", preset)
        found = {m: row for m in molecules if (row := rows.get(f"rmd17/{m}/01/{variant}/{metric}"))}
        says = ", ".join(f"{key} {value}" for key, value in settings.items()) or "the defaults"
        times = {duration(row["budget_s"]) for row in found.values()}
        cells = [f"{found[m]['value']:.1f}" if m in found else "-" for m in molecules]
        lines.append([f"`{preset}`", says, " or ".join(sorted(times)) or "-", *cells])
    return _table(["preset", "settings", "training, one thread", *molecules], lines)


def trust(folder: Path) -> str:
    """What the sigmas, thresholds and dynamics were worth, as a Markdown table."""
    rows = read(folder, "calibration", "detection", "conservation")
    return _table(["promise", "measured"], [*_sigmas(rows), *_rates(rows), *_alarms(rows), *_stability(rows)])


def _sigmas(rows: Rows) -> Iterable[list[str]]:
    promise = "the force error on an atom lies within the region stated for 95 %"
    hotter = "the same, hotter than all labels it was trained and calibrated on"
    for title, splits in ((promise, AT_HOME), (hotter, HOTTER)):
        of = {name: rows.get(f"{split}/last-layer/forces_coverage_95") for split, name in splits.items()}
        found = [f"{name} {100 * row['value']:.1f} %" for name, row in of.items() if row is not None]
        if found:
            yield [title, ", ".join(found)]


def _rates(rows: Rows) -> Iterable[list[str]]:
    start = "bundled/ethanol/300K/last-layer/"
    for name, row in rows.items():
        if name.startswith(start + "false_halts_of_"):
            runs, nominal = name.removeprefix(start + "false_halts_of_").removesuffix("_percent").split("_runs_at_")
            low, high = row["interval"]
            each = ", ".join(f"{v:g}" for v in row["per_seed"].values())
            yield [
                f"a false halt in {nominal} % of runs",
                f"{each} of {runs} runs ({low:g} to {high:g} to be expected)",
            ]
    for name, row in rows.items():
        if name.startswith(start + "flag_rate_at_"):
            nominal = name.removeprefix(start + "flag_rate_at_").removesuffix("_percent").replace("_", ".")
            low, high = (100 * v for v in row["interval"])
            yield [f"{nominal} % of frames flagged", f"{100 * row['value']:.2f} % ({low:.2f} to {high:.2f} %)"]


def _alarms(rows: Rows) -> Iterable[list[str]]:
    start = "bundled/ethanol/1000K/"
    runs = _value(rows, f"{start}guard/runs", "g")
    metrics = {
        "before_bad": f"speaks by the first bad frame, {runs} runs at 1000 K",
        "before_physical": "speaks before the molecule breaks, the same runs",
    }
    for metric, title in metrics.items():
        if all(f"{start}{rule}/{metric}" in rows for rule in RULES):
            each = [f"{name} {_value(rows, f'{start}{rule}/{metric}', 'g')}" for rule, name in RULES.items()]
            yield [title, ", ".join(each)]


def _stability(rows: Rows) -> Iterable[list[str]]:
    drift = [_value(rows, f"rmd17/{m}/01/conservative/nve_float32_drift_bound", ".2g") for m in PAIR]
    if "-" not in drift:
        yield ["energy drift at 300 K, 100 ps (ethanol / aspirin)", f"at most {' / '.join(drift)} meV/atom/ps"]
    stable = [row["per_seed"].values() for m in PAIR if (row := rows.get(f"rmd17/{m}/01/conservative/nvt_stable"))]
    if len(stable) == len(PAIR):
        times, runs = (" / ".join(f"{of(each):g}" for each in stable) for of in (min, len))
        yield ["no broken bond at 500 K (ethanol / aspirin)", f"{times} ps, the shortest of {runs} runs"]


def _value(rows: Rows, name: str, form: str) -> str:
    """A row's value; from 100 on as a whole number."""
    if name not in rows:
        return "-"
    value = rows[name]["value"]
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:{form}}"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *lines])


if __name__ == "__main__":
    results = Path("benchmarks") / "results"
    print(face(results), speed(results), trust(results), presets(results), sep="\n\n")
