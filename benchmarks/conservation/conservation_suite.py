"""Conservative against direct forces, on the same backbone and data, after "Forces are not Enough" (Fu et al. 2022).

For molecules of rMD17, models of the accuracy suite, in four parts, each in pieces that are kept:

- ``errors``: of energies and forces on the test frames, net force and torque;
- ``steps``: time of a molecular dynamics step, interleaved, eager and compiled;
- ``nve``: constant energy at 300 K, 0.5 fs: drift in float32 and float64, picoseconds until unstable;
- ``nvt``: Nose-Hoover at 500 K, 0.5 fs: picoseconds until unstable, distances h(r) beside those of the data.

Dynamics that is interrupted goes on where it was. Writes conservation.json, conservation.md and plots.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks import models
from equimd.benchmarks.accuracy import accuracy_suite
from equimd.benchmarks.arguments import parse
from equimd.benchmarks.conservation import conservation_runs
from equimd.benchmarks.options import Options
from equimd.benchmarks.pieces import MeasuredRow, fingerprint, piece
from equimd.benchmarks.results import merge
from equimd.data.dataset import Dataset
from equimd.files import file_digest
from equimd.tasks.compare.measures import pooled

MOLECULES = ("ethanol", "aspirin")
PARTS = ("errors", "steps", "nve", "nvt")
VARIANTS = ("conservative", "direct")
DTYPES = ("float64", "float32")
ERRORS = {"energy_mae_meV": "meV", "forces_mae_meV_per_A": "meV/A", "forces_rmse_meV_per_A": "meV/A"}


@dataclass(frozen=True)
class ConservationSize:
    """Picoseconds and replicas of the dynamics, steps that are timed, dtypes at constant energy."""

    nve_ps: float = 100.0
    nve_replicas: int = 3
    nvt_ps: float = 300.0
    nvt_replicas: int = 5
    timed: int = 500
    compiled: bool = True
    dtypes: tuple[str, ...] = DTYPES


QUICK = ConservationSize(nve_ps=0.1, nve_replicas=2, nvt_ps=0.1, nvt_replicas=2, timed=20, compiled=False)


def run(
    options: Options,
    *,
    parts: Sequence[str] = PARTS,
    variants: Sequence[str] = VARIANTS,
    dtypes: Sequence[str] = DTYPES,
    quick: bool = False,
    nve_ps: float | None = None,
    nvt_ps: float | None = None,
) -> Path:
    """Run the suite on the first of the seeds; returns the table's path.

    Args:
        variants: of the forces. dtypes: of the model in dynamics at constant energy.
        nve_ps, nvt_ps: where not as in :class:`ConservationSize`.
    """
    size = QUICK if quick else ConservationSize()
    size = replace(size, dtypes=tuple(dtypes), **{k: v for k, v in (("nve_ps", nve_ps), ("nvt_ps", nvt_ps)) if v})
    found: dict[str, Any] = {}
    for case in models.cases(options.molecules):
        runs = {v: models.trained(case, options, options.seeds[0], v) for v in variants}
        found[case.name] = molecule(case, runs, options, parts, size)
        hashes = {path.name: file_digest(path) for path in models.files(case, options)}
        merge(options.out / "conservation.json", "conservation", rows(case, found[case.name], options), hashes)
    return _write(found, options)


def molecule(
    case: models.Case, runs: Mapping[str, Path], options: Options, parts: Sequence[str], size: ConservationSize
) -> dict[str, Any]:
    """All parts for one molecule: {part: {variant: ...}}."""
    work, data = options.work / "conservation", _test_frames(case, options)
    potentials = {v: models.load_model(run) for v, run in runs.items()}
    digests = {v: models.weights_sha256(run) for v, run in runs.items()}
    out: dict[str, Any] = {}
    for variant, run_folder in runs.items():
        potential, digest = potentials[variant], digests[variant]
        name = f"{case.name}-{variant}"
        if "errors" in parts:
            errors = json.loads((run_folder / "test.json").read_text())
            found = piece(
                work,
                f"net-{name}",
                {"model": digest},
                lambda p=potential: conservation_runs.net(p, data),  # type: ignore[misc]
            )
            out.setdefault("errors", {})[variant] = {k: errors[k] for k in ERRORS} | {
                k: found[k] for k in ("net_force", "torque")
            }
        for part in ("nve", "nvt"):
            for kind in _kinds(part, size) if part in parts else ():
                key = part if part == "nvt" else f"nve-{kind.dtype}"
                out.setdefault(key, {})[variant] = _dynamics(potential, digest, data, kind, work / name)
    if "steps" in parts:
        modes = ("off", "on") if size.compiled else ("off",)
        settings = {"models": digests, "timed": size.timed, "modes": modes}
        out["steps"] = piece(
            work,
            f"steps-{case.name}",
            settings,
            lambda: {"ms": conservation_runs.step_times(potentials, data, size.timed, modes)},
        )["ms"]
    return out


def _kinds(part: str, size: ConservationSize) -> list[conservation_runs.Dynamics]:
    compile_: Any = "on" if size.compiled else "off"
    if part == "nvt":
        steps = round(1e3 * size.nvt_ps / conservation_runs.DT)
        return [
            conservation_runs.Dynamics("nose-hoover", 500.0, steps, size.nvt_replicas, "float32", 20, compile=compile_)
        ]
    steps = round(1e3 * size.nve_ps / conservation_runs.DT)
    return [
        conservation_runs.Dynamics("nve", 300.0, steps, size.nve_replicas, d, compile=compile_) for d in size.dtypes
    ]


def _dynamics(
    potential: Any, digest: str, data: Dataset, kind: conservation_runs.Dynamics, folder: Path
) -> dict[str, Any]:
    name = conservation_runs.name_of(kind, digest)

    def make() -> dict[str, Any]:
        simulation = conservation_runs.simulate(potential, data, kind, folder / name)
        return conservation_runs.judge(simulation, data, kind, folder / name)

    return piece(folder, name, {**vars(kind), "model": digest, "data": fingerprint({"n": len(data)})}, make)


def _test_frames(case: models.Case, options: Options) -> Dataset:
    from equimd.data import open_dataset

    return open_dataset([models.problem(case, options).tests[0][1]])


def rows(case: models.Case, found: Mapping[str, Any], options: Options) -> Iterator[MeasuredRow]:
    """The figures of a molecule."""

    trained = accuracy_suite.preset_name(options)

    def row(variant: str, metric: str, value: float, unit: str, how: str = "", **more: Any) -> MeasuredRow:
        preset = f"{trained}, {how}" if how else trained
        command = f"equimd bench conservation --molecules {case.name} --budget {options.budget_s / 60:g}m"
        name = f"{case.row}/{variant}/{metric}"
        return MeasuredRow(name, value, unit, command, preset, options.budget_s, case.n_train, options.seeds[0], **more)

    for variant, values in found.get("errors", {}).items():
        for metric, unit in {**ERRORS, "net_force": "meV/A", "torque": "meV"}.items():
            yield row(variant, metric, values[metric], unit)
    for mode, times in found.get("steps", {}).items():
        for variant, value in times.items():
            yield row(variant, f"step_{mode}", value, "ms")
    for key in (f"nve-{dtype}" for dtype in DTYPES):
        for variant, values in found.get(key, {}).items():
            yield from _nve_rows(variant, key, values, row)
    for variant, values in found.get("nvt", {}).items():
        how = f"{len(values['replicas'])} replicas of {values['length_ps']:g} ps"
        stable = {str(k): r["stable_ps"] for k, r in enumerate(values["replicas"])}
        yield row(variant, "nvt_stable", float(np.mean(list(stable.values()))), "ps", how, per_seed=stable)
        if "h" in values:
            yield row(variant, "nvt_h_error", values["h"]["error"], "1", how)


def _nve_rows(variant: str, key: str, values: Mapping[str, Any], row: Any) -> Iterator[MeasuredRow]:
    replicas, name = values["replicas"], key.replace("-", "_")
    how = f"{len(replicas)} replicas of {values['length_ps']:g} ps"
    stable = {str(k): r["stable_ps"] for k, r in enumerate(replicas)}
    yield row(variant, f"{name}_stable", float(np.mean(list(stable.values()))), "ps", how, per_seed=stable)
    drift = pooled(replicas)
    if drift is None:
        return
    slope, error = drift["drift"], drift["error"]
    each = {str(k): r["drift"] for k, r in enumerate(replicas) if r["drift"] is not None}
    ends = [slope - 2 * error, slope + 2 * error]
    yield row(variant, f"{name}_drift", slope, "meV/atom/ps", how, interval=ends, per_seed=each)
    yield row(variant, f"{name}_drift_bound", abs(slope) + 2 * error, "meV/atom/ps", how)


def _write(found: Mapping[str, Any], options: Options) -> Path:
    from equimd.benchmarks.conservation import conservation_tables

    results = json.loads((options.out / "conservation.json").read_text())
    table = options.out / "conservation.md"
    table.write_text(conservation_tables.markdown(results))
    conservation_tables.plots(found, options.out)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    own = {"variants": VARIANTS, "dtypes": DTYPES, "nve_ps": 0.0, "nvt_ps": 0.0}
    options, more = parse(__doc__, argv, molecules=MOLECULES, seeds=(0,), parts=PARTS, **own)
    print(run(options, **more).read_text())
