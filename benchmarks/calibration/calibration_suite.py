"""How well uncertainties are calibrated, against baselines; how often the thresholds are wrong; what it all costs.

Three parts, each in pieces that are kept, so that an interrupted run goes on:

- ``sigmas``: every method on held-out frames in domain and out of it (:mod:`.sigmas`);
- ``rates``: flags and halts in fresh in-domain runs of the models (:mod:`.rates`), bundled ethanol;
- ``costs``: the guard's scores as ratios to a plain call (:mod:`.costs`), molecules of rMD17.

Models are those of the accuracy suite, of the same work folder and budget; missing ones are trained. Writes
calibration.json, calibration.md and, of each molecule, calibration-<molecule>.png.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from equimd.benchmarks import models
from equimd.benchmarks.accuracy import accuracy_suite
from equimd.benchmarks.arguments import parse
from equimd.benchmarks.calibration import costs, rates, sigmas
from equimd.benchmarks.calibration.baselines import METHODS
from equimd.benchmarks.options import Options
from equimd.benchmarks.pieces import MeasuredRow, over_seeds, piece
from equimd.benchmarks.results import merge
from equimd.files import file_digest

MOLECULES = ("ethanol", "aspirin", models.ACAC, models.BUNDLED)
PARTS = ("sigmas", "rates", "costs")
MEMBERS = 4
QUICK_FRAMES, QUICK_MEMBERS = 160, 2  # of each part, and of the ensemble, in a quick run
UNITS = {"nll": "nats", "crps": "eV", "sharpness": "eV"}
Pieces = dict[int, dict[str, Any]]


def run(options: Options, *, parts: Sequence[str] = PARTS, members: int = MEMBERS, quick: bool = False) -> Path:
    """Run the suite; returns the table's path.

    Args:
        options: ``molecules`` are of rMD17, or ``acac`` or ``bundled``.
        members: models of the ensemble: the training seeds, and further ones if these are too few. Below 2: none.
        quick: few frames, models and short runs, nothing compiled: shows that it works, and nothing else.
    """
    chosen = models.cases(options.molecules)
    members = min(members, QUICK_MEMBERS) if quick else members
    found: dict[str, Pieces] = {}
    for case in chosen:
        if "sigmas" in parts:
            found[case.name] = {
                seed: _sigmas(case, options, seed, members if seed == options.seeds[0] else 0, quick)
                for seed in options.seeds
            }
            _record(case, _sigma_rows(case, found[case.name], options), options)
        if "rates" in parts and case.name == models.BUNDLED:
            measured = {seed: _rates(case, options, seed, quick) for seed in options.seeds}
            _record(case, list(_rate_rows(case, measured, options)), options)
        if "costs" in parts and case.name not in (models.BUNDLED, models.ACAC):
            _record(case, list(_cost_rows(case, _costs(case, options, quick), options)), options)
    return _write(options, found)


def _sigmas(case: models.Case, options: Options, seed: int, members: int, quick: bool) -> dict[str, Any]:
    seeds = [*options.seeds, *(k for k in range(members + len(options.seeds)) if k not in options.seeds)]
    own = models.trained(case, options, seed)
    others = [models.trained(case, options, k) for k in seeds[:members]]
    limit = QUICK_FRAMES if quick else None
    settings = {
        "run": models.weights_sha256(own),
        "members": [models.weights_sha256(m) for m in others],
        "seed": seed,
        "limit": limit,
        **({"methods": METHODS.added} if METHODS.added else {}),
    }
    name = f"sigmas-{case.name}-seed{seed}"
    return piece(_work(options), name, settings, lambda: sigmas.measure(case, own, others, options, seed, limit))


def _rates(case: models.Case, options: Options, seed: int, quick: bool) -> dict[str, Any]:
    own = models.trained(case, options, seed)
    size = rates.QUICK if quick else rates.RatesSize()
    settings = {"run": models.weights_sha256(own), "seed": seed, **vars(size)}
    return piece(
        _work(options), f"rates-{case.name}-seed{seed}", settings, lambda: rates.measure(case, own, options, seed, size)
    )


def _costs(case: models.Case, options: Options, quick: bool) -> dict[str, Any]:
    seed = options.seeds[0]
    own = models.trained(case, options, seed)
    size: dict[str, Any] = {"frames": 50, "compiled": False} if quick else {"frames": 1000, "compiled": True}
    settings = {"run": models.weights_sha256(own), "seed": seed, **size}
    name = f"costs-{case.name}-seed{seed}"
    return piece(_work(options), name, settings, lambda: costs.measure(case, own, options, seed, **size))


def _work(options: Options) -> Path:
    return options.work / "calibration"


def _row(
    name: str, found: Mapping[str, Any], unit: str, case: models.Case, options: Options, preset: str | None = None
) -> MeasuredRow:
    seeds = sorted(found.get("per_seed") or {})
    command = f"equimd bench calibration --molecules {case.name} --budget {options.budget_s / 60:g}m"
    if len(options.seeds) > 1 or options.seeds[0]:
        command += " --seeds " + " ".join(map(str, options.seeds))
    return MeasuredRow(
        name,
        found["value"],
        unit,
        command,
        preset or accuracy_suite.preset_name(options),
        options.budget_s,
        case.n_train,
        int(seeds[0]) if len(seeds) == 1 else None,
        interval=found.get("interval"),
        per_seed=found.get("per_seed"),
    )


def _sigma_rows(case: models.Case, found: Pieces, options: Options) -> list[MeasuredRow]:
    from equimd.uq.metrics import METRICS

    rows = []
    first = next(iter(found.values()))["methods"]
    for method in first:
        of = {seed: p["methods"][method] for seed, p in found.items() if method in p["methods"]}

        def add(split: str, metric: str, unit: str, values: Mapping[int, Any], name: str = method) -> None:
            joined = over_seeds(values)
            if joined is not None:
                rows.append(_row(f"{case.row_of(split)}/{name}/{metric}", joined, unit, case, options))

        for split in first[method]["splits"]:
            at = {seed: m["splits"][split] for seed, m in of.items()}
            for kind in sigmas.KINDS:
                per_length = "/A" if kind == "forces" else ""
                for metric in METRICS:
                    unit = UNITS.get(metric, "1")
                    unit += per_length if unit == "eV" else ""
                    values = {s: (a[kind][metric], a[kind]["intervals"][metric]) for s, a in at.items()}
                    add(split, f"{kind}_{metric}", unit, values)
                for metric in ("zms", "coverage_95"):
                    values = {s: (a[kind]["one_scale"][metric], None) for s, a in at.items()}
                    add(split, f"{kind}_{metric}_one_scale", "1", values)
            own = ["auroc_bad_screen"] if method == "last-layer" else []
            for metric in ("auroc_bad", "auroc_bad_expected", "auroc_domain", *own):
                ranked = {s: a[metric] for s, a in at.items() if metric in a}
                add(split, metric, "1", {s: (r["value"], r["interval"]) for s, r in ranked.items()})
            add(split, "bad_frames", "frames", {s: (a["bad"], None) for s, a in at.items()})
        add(case.split, "step_ratio", "1", {s: (m["step_ratio"], None) for s, m in of.items()})
        add(case.split, "fit_time", "s", {s: (m["fit_seconds"], None) for s, m in of.items()})
        add(case.split, "trainings", "models", {s: (m["trainings"], None) for s, m in of.items()})
    return rows


def _rate_rows(case: models.Case, found: Pieces, options: Options) -> Iterator[MeasuredRow]:
    name = f"{case.row}/last-layer"
    one = next(iter(found.values()))
    size = one["size"]
    for k, nominal in enumerate(size["flags"]):
        joined = over_seeds({s: (p["flags"][k]["rate"], p["flags"][k]["interval"]) for s, p in found.items()})
        if joined is not None:
            yield _row(f"{name}/flag_rate_at_{100 * nominal:g}_percent".replace(".", "_"), joined, "1", case, options)
    halts = f"false_halts_of_{size['runs']}_runs_at_{100 * size['halt']:g}_percent"
    preset = f"{accuracy_suite.preset_name(options)}, {size['blocks']} blocks of {size['run_length']} steps"
    joined = over_seeds({s: (p["halts"]["count"], p["halts"]["expected"]) for s, p in found.items()})
    if joined is not None:
        yield _row(f"{name}/{halts}", joined, "runs", case, options, preset)
    joined = over_seeds({s: (p["halts"]["exact_share"], None) for s, p in found.items()})
    if joined is not None:
        yield _row(f"{name}/exact_share_halt", joined, "1", case, options, preset)


def _cost_rows(case: models.Case, found: Mapping[str, Any], options: Options) -> Iterator[MeasuredRow]:
    for mode, values in found["modes"].items():
        for what, value in values.items():
            unit, metric = ("ms", what) if what.endswith("_ms") else ("1", what)
            metric = metric if unit == "ms" or what.startswith("exact_share") else f"{what}_ratio"
            preset = f"{accuracy_suite.preset_name(options)}, one structure of {found['n_atoms']} atoms a call"
            yield _row(f"{case.row}/{mode}/{metric}", {"value": value}, unit, case, options, preset)


def _record(case: models.Case, rows: Sequence[MeasuredRow], options: Options) -> None:
    hashes = {path.name: file_digest(path) for path in models.files(case, options)}
    merge(options.out / "calibration.json", "calibration", rows, hashes)


def _write(options: Options, found: Mapping[str, Pieces]) -> Path:
    """Table from the results file; plots from the pieces of this run."""
    import json

    from equimd.benchmarks.calibration import calibration_tables

    results = json.loads((options.out / "calibration.json").read_text())
    table = options.out / "calibration.md"
    table.write_text(calibration_tables.markdown(results))
    for name, pieces in found.items():
        calibration_tables.plot(name, pieces, options.out / f"calibration-{name}.png")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options, more = parse(__doc__, argv, molecules=MOLECULES, seeds=(0, 1, 2), parts=PARTS, members=MEMBERS)
    print(run(options, **more).read_text())
