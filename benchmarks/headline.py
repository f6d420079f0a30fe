"""What the README says of speed and trust: a few figures of the suites, read from their results files.

``python -m equimd.benchmarks.headline`` prints it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]

PEERS = {"schnetpack": "SchNetPack's PaiNN, same width", "nequip": "NequIP, l = 1", "mace": "MACE, 128 channels"}
STEPS = {"10/train": "training step of 10 frames", "1/md": "step of dynamics", "32/md": "step of 32 replicas at once"}
PAIR = ("ethanol", "aspirin")
SPLITS = {
    "rmd17/ethanol/01": "rMD17 ethanol",
    "rmd17/aspirin/01": "rMD17 aspirin",
    "acac/acetylacetone/300K": "acetylacetone 300 K",
    "bundled/ethanol/300K": "bundled ethanol 300 K",
    "acac/acetylacetone/600K": "acetylacetone 600 K",
    "bundled/ethanol/600K": "bundled ethanol 600 K",
    "bundled/ethanol/1000K": "bundled ethanol 1000 K",
}
RULES = {"bound": "error bound", "flag": "flag threshold", "halt": "halt threshold"}


def read(folder: Path, *suites: str) -> Rows:
    """Rows of these suites by name; of a suite without results, none."""
    paths = (folder / f"{suite}.json" for suite in suites)
    return {row["name"]: row for path in paths if path.is_file() for row in json.loads(path.read_text())["rows"]}


def speed(folder: Path) -> str:
    """How many times longer the peers take, as a Markdown table; a figure that is missing reads -."""
    rows = read(folder, "speed")
    heads = ["on ethanol / aspirin", *PEERS.values()]
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


def trust(folder: Path) -> str:
    """What the sigmas, thresholds and dynamics were worth, as a Markdown table."""
    rows = read(folder, "calibration", "detection", "conservation")
    return _table(["promise", "measured"], [*_sigmas(rows), *_rates(rows), *_alarms(rows), *_stability(rows)])


def _sigmas(rows: Rows) -> Iterable[list[str]]:
    promise = "the force error on an atom lies within the region stated for 95 %"
    for at_home, title in (
        (True, promise),
        (False, "the same, hotter than all labels it was trained and calibrated on"),
    ):
        found = []
        for split, name in SPLITS.items():
            row = rows.get(f"{split}/last-layer/forces_coverage_95")
            if row is not None and (split.endswith(("01", "300K")) == at_home):
                found.append(f"{name} {100 * row['value']:.1f} %")
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
    found = {rule: rows.get(f"{start}{rule}/before_bad") for rule in RULES}
    runs = rows.get(f"{start}guard/runs")
    if runs is None or None in found.values():
        return
    each = ", ".join(f"{RULES[rule]} {_value(rows, f'{start}{rule}/before_bad', 'g')}" for rule in RULES)
    yield [f"speaks by the first bad frame, {runs['value']:g} runs at 1000 K", each]
    each = ", ".join(f"{RULES[rule]} {_value(rows, f'{start}{rule}/before_physical', 'g')}" for rule in RULES)
    yield ["speaks before the molecule breaks, the same runs", each]


def _stability(rows: Rows) -> Iterable[list[str]]:
    drift = [_value(rows, f"rmd17/{m}/01/conservative/nve_float32_drift_bound", ".2g") for m in PAIR]
    if "-" not in drift:
        yield ["energy drift at 300 K, 100 ps (ethanol / aspirin)", f"at most {' / '.join(drift)} meV/atom/ps"]
    stable = [rows.get(f"rmd17/{m}/01/conservative/nvt_stable") for m in PAIR]
    if None not in stable:
        times = " / ".join(f"{min(row['per_seed'].values()):g}" for row in stable if row)
        yield ["no broken bond at 500 K (ethanol / aspirin)", f"{times} ps, the shortest of five runs each"]


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
    print(speed(results), trust(results), sep="\n\n")
