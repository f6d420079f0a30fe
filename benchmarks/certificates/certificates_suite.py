"""What certificates are worth: fresh runs of the models that ``equimd learn`` shipped, one frame of each labelled.

Of every learn folder given: whether it ended with a certificate, at how many labels and minutes. Where it did, further
runs of the certified kind are made (its starts, steps, temperature, threshold; random numbers that learn never used),
and the reference method labels a frame of each, at a step drawn beforehand: the shares of bad frames and of halted runs
are at most those certified, or the certificate was wrong. Runs are kept in portions, so that the same command goes on
where it was stopped. Writes certificates.json and certificates.md.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equimd.benchmarks.options import say
from equimd.benchmarks.pieces import MeasuredRow, fingerprint, piece
from equimd.benchmarks.results import made_by, merge
from equimd.config import read_config
from equimd.data.frames import Frames
from equimd.files import cache_folder
from equimd.labels.ledger import LabelStore, ask_for
from equimd.labels.pool import Executor, LocalPool
from equimd.machine import cores
from equimd.progress import duration
from equimd.tasks.audit.expected import Calibrated
from equimd.tasks.audit.runs import Dynamics, draws, guarded_runs
from equimd.tasks.audit.task import largest_errors, start_rows
from equimd.tasks.learn.cheap import start_positions
from equimd.tasks.learn.journal import Journal
from equimd.tasks.learn.settings import LearnSettings
from equimd.tasks.learn.task import SETTINGS_FILE, Learned, molecules_of, standing
from equimd.tasks.learn.work import USES
from equimd.uq.bounds import two_sided

SEED = 1_000_003  # of the fresh runs, added to that of the learn run: no stage of learn uses it


@dataclass(frozen=True)
class Case:
    """A learn folder.

    Attributes:
        settings: that it was made with. found: where it stands.
    """

    folder: Path
    settings: LearnSettings
    found: Learned

    @classmethod
    def of(cls, folder: Path) -> Case:
        """Read it."""
        path = folder / SETTINGS_FILE
        found = standing(folder)
        return cls(folder, LearnSettings.parse(read_config(path), where=str(path)), found)

    @property
    def name(self) -> str:
        """Of its rows, without the metric."""
        s = self.settings
        claim = f"{s.temperature:g}K-{1e3 * s.error:.0f}meV-{s.share:g}"
        parts = ("learn", Path(s.molecule).stem, claim, f"seed{s.seed}")
        return "/".join(re.sub(r"[^\w-]", "_", part) for part in parts)

    @property
    def command(self) -> str:
        """That made it: settings that differ from the defaults, but the size, which follows from the time."""
        given, default = self.settings, LearnSettings()
        options = [f"--max-time {duration(given.max_time)}", f"--seed {given.seed}"]
        for key in ("calculator", "cheap", "temperature", "run_length", "error", "share", "labels"):
            if (value := getattr(given, key)) != getattr(default, key):
                options.append(f"--{key.replace('_', '-')} {value}")
        return " ".join(["equimd learn", shlex.quote(given.molecule), *options])

    def starts(self) -> Frames:
        """What its runs start from."""
        molecules, template = molecules_of(self.folder, self.settings)
        return template.at(start_positions(self.folder, Journal(self.folder), molecules))


def run(
    folders: Sequence[Path],
    out: Path,
    work: Path,
    *,
    runs: int = 300,
    jobs: int | None = None,
    executor: Executor | None = None,
) -> Path:
    """Measure each; returns the table's path.

    Args:
        executor: where labels are computed; by default ``jobs`` processes of this machine.
    """
    rows, digests = list[MeasuredRow](), dict[str, str]()
    for folder in folders:
        case = Case.of(folder)
        fresh = None
        if case.found.certificate is not None:
            digests[case.name] = str(case.found.certificate["model_sha256"])
            settings = {"certificate": case.found.certificate, "runs": runs}
            where = work / "certificates" / fingerprint(settings)
            pool = executor or LocalPool(case.settings.calculator, jobs or cores(), case.settings.call_limit)
            try:
                fresh = piece(where, "fresh", settings, lambda c=case, w=where, p=pool: measured(c, w, runs, p))  # type: ignore[misc]
            finally:
                if executor is None:
                    pool.close()
        rows += rows_of(case, fresh)
    results = merge(out / "certificates.json", "certificates", rows, digests)
    table = out / "certificates.md"
    table.write_text(markdown(results))
    return table


def measured(case: Case, folder: Path, runs: int, executor: Executor) -> dict[str, Any]:
    """Fresh runs as certified, and the labels of a frame of each that had not halted by its step.

    Returns:
        {runs, halts, labelled, failed, bad, largest_eV_per_A}.
    """
    c, s = dict(case.found.certificate or {}), case.settings
    known = Calibrated.of(case.folder / "run")
    compiled = bool(Journal(case.folder).decision("compile").get("runs"))
    seed = ((s.seed * 8 + 7) << 20) + SEED
    dynamics = Dynamics(c["run_length"], c["temperature_K"], c["dt_fs"], c["friction_per_fs"], seed, compiled)
    replicas, starts = range(runs), case.starts()
    last = 0.0

    def told(done: int, total: int) -> None:
        nonlocal last
        if done / total - last >= 0.02 or done >= total:
            last = done / total
            say(f"{case.name}: {100 * last:.0f} % of {runs} runs")

    taken = guarded_runs(
        known.model,
        starts.take(start_rows(replicas, len(starts), seed)),
        replicas,
        dynamics,
        draws(replicas, dynamics.steps, seed),
        watch=known.shipped(),
        folder=folder / "runs",
        progress=told,
    )
    labelled = ask_for(LabelStore(folder / "labels", s.calculator), executor, starts.at(taken.positions))
    errors = largest_errors(known.model, labelled.frames)
    return {
        "runs": runs,
        "halts": len(taken.halted_replica),
        "labelled": len(errors),
        "failed": len(labelled.failed),
        "bad": int((errors > s.error).sum()),
        "largest_eV_per_A": float(errors.max()),
    }


def rows_of(case: Case, fresh: Mapping[str, Any] | None) -> Iterator[MeasuredRow]:
    """The figures of one learn run."""
    found, s, c = case.found, case.settings, case.found.certificate or {}
    values: dict[str, tuple[float, str]] = {
        "certified": (float(found.status == "certified"), "1"),
        "labels": (found.labels["total"], "labels"),
        **{f"labels_{use}": (found.labels[use], "labels") for use in USES},
        "minutes": (round(found.seconds / 60, 1), "min"),
    }
    if c:
        values |= {"share_bound": (c["share_bound"], "1"), "halts_bound": (c["halts_bound"], "1")}
    intervals: dict[str, list[float]] = {}
    if fresh is not None:
        for name, count, total in (("bad", "bad", "labelled"), ("halts", "halts", "runs")):
            values[f"fresh_{total}"] = (fresh[total], total)
            values[f"fresh_{name}"] = (fresh[count] / max(fresh[total], 1), "1")
            intervals[f"fresh_{name}"] = list(two_sided(fresh[count], max(fresh[total], 1), 0.95))
        values["fresh_largest"] = (fresh["largest_eV_per_A"], "eV/A")
    about = (case.command, str(s.preset), s.max_time, int(found.labels["train"]), s.seed)
    for metric, (value, unit) in values.items():
        yield MeasuredRow(f"{case.name}/{metric}", float(value), unit, *about, interval=intervals.get(metric))


def markdown(results: Mapping[str, Any]) -> str:
    """A row a learn run."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        name, _, metric = row["name"].rpartition("/")
        found.setdefault(name, {})[metric] = row
    heads = ["command", "certificate", "labels (train, calibrate, audit)", "minutes"]
    heads += ["bad frames: certified", "of fresh runs", "halts: certified", "of fresh runs"]
    lines = [heads, ["---"] * len(heads)]
    for row in found.values():
        values = {metric: each["value"] for metric, each in row.items()}
        parts = ", ".join(f"{values[f'labels_{use}']:.0f}" for use in USES)
        cells = [f"`{row['labels']['command']}`", "yes" if values["certified"] else "no"]
        cells += [f"{values['labels']:.0f} ({parts})", f"{values['minutes']:.1f}"]
        for bound, fresh, total in (("share_bound", "fresh_bad", "labelled"), ("halts_bound", "fresh_halts", "runs")):
            cells.append(f"below {100 * values[bound]:.3g} %" if bound in values else "-")
            cells.append(_share(row, fresh, total))
        lines.append(cells)
    table = ["| " + " | ".join(cells) + " |" for cells in lines]
    text = (
        "Reference GFN2-xTB, cheap method GFN1-xTB, unless the command says otherwise. Fresh runs start, last and halt "
        "as those that were certified, with random numbers that learn never used; one frame of each that had not "
        "halted by its step is labelled. In brackets: 95 % intervals by Clopper and Pearson."
    )
    made = made_by(results, "python -m equimd.benchmarks.certificates")
    return "\n".join(["# Certificates", "", *table, "", text, "", made, ""])


def _share(row: Mapping[str, Mapping[str, Any]], metric: str, total: str) -> str:
    if metric not in row:
        return "-"
    value, count = row[metric], row[f"fresh_{total}"]["value"]
    ends = " to ".join(f"{100 * end:.2g}" for end in value["interval"])
    return f"{value['value'] * count:.0f} of {count:.0f}: {100 * value['value']:.2g} % [{ends}]"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(
        prog="python -m equimd.benchmarks.certificates", description=about,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("learned", nargs="+", type=Path, help="folders of `equimd learn`")
    parser.add_argument("--runs", type=int, default=300, help="fresh runs of each")
    parser.add_argument("--jobs", type=int, help="labels computed at the same time; by default as many as cores")
    parser.add_argument("--out", type=Path, default=Path("benchmarks") / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=cache_folder() / "benchmarks", help="folder of finished runs")
    given = parser.parse_args(argv)
    say(f"table: {run(given.learned, given.out, given.work, runs=given.runs, jobs=given.jobs)}")
