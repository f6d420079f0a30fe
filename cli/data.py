"""``equimd data``: list, fetch, inspect, convert, generate and label data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite
from equimd.cli.common import echo_json, log, sub_app, warn
from equimd.cli.completion import bundled, collections, completing, structures
from equimd.cli.options import with_settings
from equimd.config import ReadingSettings
from equimd.errors import EXIT_USAGE, DataError
from equimd.progress import counted_stages, counting
from equimd.tables import Table, facts
from equimd.tasks.generate.settings import GenerationSettings
from equimd.tasks.label.settings import LabelSettings
from equimd.terminal import ProgressBar, show

if TYPE_CHECKING:
    from equimd.data.catalogue import Collection
    from equimd.data.check import Report

app = sub_app("List, fetch, inspect, convert, generate and label data sets.")

_Out = Annotated[Path, typer.Option(help="NAME.h5 for equimd's store, NAME.xyz for extended XYZ")]
_Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE",
        help="data files or folders, or bundled:NAME; several are joined",
        autocompletion=completing(bundled),
    ),
]


@app.command("list")
def list_(
    collection: Annotated[
        str | None,
        typer.Argument(metavar="COLLECTION", help="show one collection only", autocompletion=completing(collections)),
    ] = None,
    json: Json = False,
) -> None:
    """Show the catalogue of data sets.

    Molecules, frames, level of theory, licence and citation of what `equimd data fetch` downloads and of what is
    bundled.

    Examples:

        equimd data list
        equimd data list rmd17
        equimd data list --json
    """
    from equimd.data import catalogue

    table = catalogue.collections()
    if collection is not None:
        if collection.lower() not in table:
            raise DataError(f"no collection '{collection}'", hint="one of " + ", ".join(table))
        table = {collection.lower(): table[collection.lower()]}
    if json:
        echo_json({"collections": [_catalogue_json(c) for c in table.values()]})
        return
    parts = [part for each in table.values() for part in _collection(each)]
    if collection is None:
        parts.append("equimd data fetch COLLECTION ITEM downloads; bundled data is opened as --data bundled:NAME.")
    show(parts)


def _catalogue_json(c: Collection) -> dict[str, Any]:
    items = [
        {"item": e.item, "n_atoms": e.n_atoms, "n_frames": e.frames, "theory": e.theory, "labels": e.labels}
        for e in c.entries
    ]
    return {
        "name": c.name, "title": c.title, "units": c.units, "licence": c.licence, "citation": c.citation,
        "note": c.note, "items": items,
    }  # fmt: skip


def _collection(c: Collection) -> list[Table | str]:
    rows = [
        [
            e.item or "-",
            e.n_atoms,
            f"{e.frames:,} frames",
            e.theory + ("" if e.labels == "energy, forces" else f" ({e.labels} only)"),
        ]
        for e in c.entries
    ]
    about = {"licence": c.licence, "units": c.units, "cite": c.citation, **({"note": c.note} if c.note else {})}
    return [
        f"{c.name}: {c.title}",
        "",
        Table(rows, ("item", "atoms", "", "theory"), left=(0, 3)),
        "",
        facts(about),
        "",
    ]


@app.command()
def fetch(
    collection: Annotated[
        str,
        typer.Argument(
            metavar="COLLECTION", help="a collection of `equimd data list`", autocompletion=completing(collections)
        ),
    ],
    item: Annotated[str | None, typer.Argument(metavar="ITEM", help="an item of it, such as a molecule")] = None,
    split: Annotated[str, typer.Option(help="which of the ready splits of rmd17: 01 to 05")] = "01",
    to: Annotated[Path | None, typer.Option(help="folder to download to (default: a cache folder)")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="omol25: use this local folder")] = None,
    file: Annotated[
        list[str] | None, typer.Option(metavar="<str>", help="omol25: a file of the repository; may be repeated")
    ] = None,
    json: Json = False,
) -> None:
    """Download and verify a data set.

    Prints the paths to open. A download that broke off is resumed. Files go to $EQUIMD_CACHE (else
    ~/.cache/equimd), and are not downloaded twice. Checksums are SHA-256 or MD5 where one is published, else the
    MD5 that sGDML files carry of their own arrays.

    OMol25 needs your own token in HF_TOKEN, or a local folder.

    Examples:

        equimd data fetch rmd17 ethanol
        equimd data fetch rmd17 aspirin --split 03 --to data
        equimd data fetch md22 stachyose
        equimd data fetch omol25 --from /data/omol25/val
    """
    from equimd.data import catalogue
    from equimd.data.fetch import fetch_files
    from equimd.files import cache_folder

    found, entry = catalogue.find(collection, item)
    folder = to or cache_folder() / found.name
    if found.name == "bundled":
        raise DataError(
            f"'{entry.item}' comes with equimd, there is nothing to fetch", hint=f"--data bundled:{entry.item}"
        )
    if found.name != "omol25" and (source is not None or file):
        raise typer.BadParameter("--from and --file are for omol25")
    with ProgressBar() as bar, counted_stages(bar, "B") as progress:
        if found.name == "omol25":
            paths = _fetch_omol25(source, file, folder, progress)
        else:
            paths = fetch_files(catalogue.files_of(entry, split), folder, progress=progress)
    log(f"{entry.name}: {entry.theory}, {found.units}, licence {found.licence}; cite {found.citation}")
    if found.note:
        log(f"note: {found.note}")
    if json:
        echo_json({"name": entry.name, "paths": paths, "licence": found.licence, "citation": found.citation})
    else:
        for path in paths:
            print(path)


def _fetch_omol25(source: Path | None, names: list[str] | None, folder: Path, progress: Any) -> list[Path]:
    from equimd.data import fetch_omol25

    if source is not None:
        path, frames = fetch_omol25.local_folder(source)
        log(f"{frames:,} frames in {path}")
        return [path]
    if names:
        return fetch_omol25.fetch(names, folder, progress)
    listed = fetch_omol25.list_files(fetch_omol25.user_token())
    for remote in listed:
        log(f"  {remote.name:40} {remote.size / 1e9:10.3f} GB")
    raise DataError("which file?", where="omol25", hint="equimd data fetch omol25 --file NAME, of those listed above")


@app.command()
@with_settings(ReadingSettings)
def inspect(
    files: _Files,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="a second data set, to look for frames that are in both; may be repeated",
            metavar="<str>",
            autocompletion=completing(bundled),
        ),
    ] = None,
    near_rmsd: Annotated[float, typer.Option(help="frames closer than this count as shared, Angstrom")] = 0.05,
    strict: Annotated[bool, typer.Option("--strict", help="exit with code 2 if an error is found")] = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Examine a data set and list its problems.

    Looks at units, ranges, duplicates, clashes, net forces and torques, energies against forces, missing labels,
    charges, correlation in time, and frames shared with another data set. Each finding has a severity: an error
    would teach a model something false, a warning deserves a look, a note is worth knowing.

    Examples:

        equimd data inspect bundled:ethanol-train
        equimd data inspect train.npz --against test.npz
        equimd data inspect frames.xyz --energy-unit kcal/mol --json
    """
    with ProgressBar():
        from equimd.data.check import inspect as examine
        from equimd.data.readers import open_dataset

        reading: dict[str, Any] = {**options, "check_units": False}
        data = open_dataset(list(files), **reading)
        other = None
        if against:  # its geometries alone are compared
            reading = {"labels": "none", "length_unit": options.get("length_unit"), "check_units": False}
            other = open_dataset(list(against), **reading)
        report = examine(data, against=other, near_rmsd=near_rmsd)
    if json:
        echo_json(report.as_dict())
    else:
        show(_report(report))
    if strict and report.worst() == "error":
        raise typer.Exit(EXIT_USAGE)


def _report(report: Report) -> list[Table | str]:
    from ase.data import chemical_symbols

    s = report.statistics
    low, high = report.n_atoms
    sizes = f"{low}" if low == high else f"{low} to {high}"
    several = f", {s['n_compositions']} compositions" if s["n_compositions"] != 1 else ""
    told = {"format": f"{report.format}, {report.n_frames:,} frames, {sizes} atoms{several}"}
    told["elements"] = " ".join(chemical_symbols[z] for z in report.elements)
    told["units"] = f"{report.units['energy']}, {report.units['forces']} ({report.units['source']})"
    labels = [n for n, there in (("energy", report.has_energy), ("forces", report.has_forces)) if there]
    told["labels"] = ", ".join(labels) or "none"
    if s["energy_per_atom_min_eV"] is not None:
        span = f"{s['energy_per_atom_min_eV']:.4f} to {s['energy_per_atom_max_eV']:.4f} eV per atom"
        told["energy"] = f"{span}, standard deviation {s['energy_std_eV']:.3f} eV per frame"
    if s["forces_rms_eV_per_A"] is not None:
        told["forces"] = f"{s['forces_rms_eV_per_A']:.3f} eV/A RMS, largest {s['forces_max_eV_per_A']:.2f} eV/A"
        torque = s["net_torque_max_eV"]
        turning = f", net torque {torque:.1g} eV" if torque is not None else ""
        told["net force"] = f"at most {s['net_force_max_eV_per_A']:.1g} eV/A{turning}"
    if s["min_distance_A"] is not None:
        told["distances"] = f"shortest {s['min_distance_A']:.3f} A"
    if s.get("energy_force_pairs"):
        residual = s["energy_force_residual_meV"]
        off = f", {residual:.1f} meV RMS off" if residual is not None else ""
        told["dE = -F dR"] = f"{s['energy_force_pairs']} near pairs, slope {s['energy_force_slope']:.3f}{off}"
    if s.get("n_effective"):
        told["rows"] = (
            f"about {s['n_effective']:,} independent (correlation time {s['correlation_time_frames']:.2g} rows)"
        )
    if s.get("nearest_rmsd_median") is not None:
        nearest = f"{s['nearest_rmsd_median']:.3f} A away in the median, {s['nearest_rmsd_min']:.3f} A at least"
        told["against"] = f"nearest frame {nearest}"
    found: list[Table | str] = [report.path, "", facts(told), ""]
    if not report.problems:
        return [*found, "no problems found"]
    problems = []
    for p in report.problems:
        where = f" [frames {', '.join(map(str, p.frames[:5]))}{', ...' if p.count > 5 else ''}]" if p.frames else ""
        problems.append([p.severity, p.code, p.message + where])
    return [*found, Table(problems, ("", "problem", "what was found"), left=(0, 1, 2))]


@app.command()
@with_settings(ReadingSettings)
def convert(
    files: _Files,
    out: _Out,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Write data as a store or extended XYZ.

    The output is in eV and Angstrom, whatever the format and units of the input. The store is read lazily and may
    be larger than memory. Units are checked: a file whose units are unknown is refused until --energy-unit states
    them.

    Examples:

        equimd data convert rmd17_ethanol_train_01.npz --out ethanol.h5
        equimd data convert part1.xyz part2.xyz --energy-unit kcal/mol --out all.h5
        equimd data convert bundled:ethanol-test --out test.xyz
    """
    from equimd.files import check_output

    with ProgressBar() as bar:
        from equimd.data.convert import output_format, write_frames
        from equimd.data.dataset import notes
        from equimd.data.readers import open_dataset

        output_format(out)
        check_output(out, overwrite)
        data = open_dataset(list(files), **options)
        for note in notes(data):
            log(note)
        units = data.info.units
        if units.source == "inferred":
            log(f"units: {units.note}")
        theory = str(data.info.extra.get("theory", ""))
        with counting(bar, "frames", "writing") as told:
            write_frames(out, data, theory=theory, source=data.info.path, progress=told)
    log(f"{len(data):,} frames in eV and Angstrom")
    if json:
        echo_json({"path": out, "n_frames": len(data)})
    else:
        print(out)


@app.command()
@with_settings(GenerationSettings, skip=("molecule",))
def generate(
    molecule: Annotated[
        str,
        typer.Argument(
            metavar="MOLECULE", help=GenerationSettings.model_fields["molecule"].description, autocompletion=structures
        ),
    ],
    out: _Out,
    jobs: Annotated[int, typer.Option(help="trajectories made at the same time, each in its own process")] = 1,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Make labelled frames by MD with GFN2-xTB.

    Langevin dynamics of an open molecule at a stated temperature, several independent trajectories. The molecule is
    relaxed first, the equilibration is thrown away, and the mean temperature is checked. The same seed gives the
    same frames, whatever --jobs. Interrupted, the same command goes on with the trajectories that are missing.

    Conformers change rarely in MD. With --torsion-interval, single bonds are also turned by random angles, accepted
    by Metropolis' rule: the frames then hold conformers by their Boltzmann weight, and are no time series.

    GFN2-xTB needs tblite: pip install 'equimd[label]'.

    Examples:

        equimd data generate ethanol --temperature 300 --frames 1000 --trajectories 5 --out ethanol.h5
        equimd data generate ethanol --trajectories 100 --torsion-interval 20 --out conformers.h5
        equimd data generate molecule.xyz --charge -1 --temperature 500 --jobs 2 --out anion.h5
    """
    with ProgressBar() as progress:
        from equimd.tasks.generate.call import generate as work

        done = work(molecule, out, jobs=jobs, overwrite=overwrite, progress=progress, **options)
    _show(done, json)


@app.command()
@with_settings(LabelSettings)
def label(
    files: _Files,
    out: _Out,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Compute energies and forces of frames.

    With GFN2-xTB, or with any ASE calculator. Charge and multiplicity of each frame are used, labels it has are
    replaced. Interrupted, the same command goes on where it stopped.

    Examples:

        equimd data label flagged.extxyz --out labelled.h5
        equimd data label frames.xyz --calculator mypackage.calc:MyCalculator --out labelled.xyz
    """
    with ProgressBar() as progress:
        from equimd.tasks.label.task import label as work

        done = work(list(files), out, overwrite=overwrite, progress=progress, **options)
    if done.failed:
        warn(f"{len(done.failed)} frames left out: {', '.join(map(str, done.failed[:10]))}")
    _show(done, json)


def _show(done: Any, json: bool) -> None:
    """The result on stdout."""
    if json:
        echo_json(done.to_json())
    else:
        print(done.path)
