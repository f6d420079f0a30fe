"""``equimd bench``: the benchmark suites."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from equimd.benchmarks.suites import SUITES, Suite
from equimd.cli.arguments import Json, Overwrite
from equimd.cli.common import echo_json, log, sub_app
from equimd.cli.completion import completing, presets
from equimd.config import PRESETS
from equimd.registry import imported
from equimd.tables import of_markdown
from equimd.terminal import show

app = sub_app("Measure accuracy, speed and trustworthiness, beside other packages; tables and plots.")

LISTS = (
    "--molecules",
    "--splits",
    "--variants",
    "--sizes",
    "--frames",
    "--seeds",
    "--peers",
    "--threads",
    "--parts",
    "--runs",
    "--ways",
)


class _Command(TyperCommand):
    """A command whose lists may also be written with spaces, ``--molecules ethanol aspirin``, or option by option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        joined: list[str] = []
        at = -1  # of the list that words belong to
        for word in args:
            if word in LISTS:
                if word not in joined:
                    joined += [word, ""]
                at = joined.index(word) + 1
            elif word.startswith("-"):
                joined.append(word)
                at = -1
            elif at >= 0:
                joined[at] += f",{word}" if joined[at] else word
            else:
                joined.append(word)
        return super().parse_args(ctx, [w for k, w in enumerate(joined) if w or joined[k - 1] not in LISTS])


_Data = Annotated[
    Path | None,
    typer.Option(help="folder of data files; default: what `equimd data fetch` made, data, ../shared/data"),
]
_Molecules = Annotated[str, typer.Option(help="molecules of rMD17, or all: the ten of them")]
_Preset = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(PRESETS)}; without it small for less than 15 minutes, else default",
        autocompletion=completing(presets),
    ),
]
_Budget = Annotated[str, typer.Option(help="training time of a model, without compilation: 90s, 45m, 2h")]
_Peers = Annotated[
    str | None,
    typer.Option(help="schnetpack, nequip, mace; none; default: those that `make peers` installed"),
]
_Out = Annotated[Path, typer.Option(help="folder of the results: <suite>.json, <suite>.md, plots")]
_Work = Annotated[
    Path | None, typer.Option(help="folder of trained models and raw measurements; default: a cache folder")
]
_Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="into a folder that has results of this suite: new rows replace old ones")
]
_Seeds = Annotated[str, typer.Option(help="seeds of the trainings")]
RESULTS = Path("benchmarks/results")
DEFAULT = "ethanol,aspirin"


def _options(
    data: Path | None,
    molecules: str,
    budget: str,
    peers: str | None,
    out: Path,
    work: Path | None,
    seeds: str = "0",
    preset: str | None = None,
    *,
    results: str,
    overwrite: bool,
) -> Any:
    """The options all suites share, checked, and the file of results."""
    from equimd.benchmarks.accuracy.accuracy_suite import MOLECULES
    from equimd.benchmarks.options import Options, data_folders, installed_peers, peer_python
    from equimd.config import parse_config
    from equimd.files import check_output
    from equimd.progress import parse_duration

    check_output(out / results, overwrite)
    named = MOLECULES if molecules == "all" else _words(molecules)
    try:
        seconds = float(str(parse_duration(budget)))
        numbers = tuple(int(s) for s in _words(seeds))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    chosen = installed_peers() if peers is None else () if peers == "none" else _words(peers)
    for peer in chosen:
        peer_python(peer)
    if preset is not None:
        parse_config({"preset": preset})  # refuses one that there is not
    more = {} if work is None else {"work": work}
    return Options(data_folders(data), named, seconds, chosen, out, seeds=numbers, preset=preset, **more)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _show(table: Path, as_json: bool) -> None:
    """A suite's table, or the results that it is made of."""
    if as_json:
        echo_json(json_text.loads(table.with_suffix(".json").read_text(encoding="utf-8")))
    else:
        show(of_markdown(table.read_text(encoding="utf-8")))
    log(f"written: {table.parent}")


@app.command(cls=_Command)
def accuracy(
    data: _Data = None,
    molecules: Annotated[
        str, typer.Option(help="molecules of rMD17; all: the ten of them; none: --acac or --ccsd alone")
    ] = DEFAULT,
    splits: Annotated[str, typer.Option(help="splits of rMD17, 01 to 05; all")] = "01",
    variants: Annotated[str, typer.Option(help="conservative, direct, or both")] = "conservative",
    sizes: Annotated[str, typer.Option(help="training frames: learning curves")] = "950",
    budget: _Budget = "45m",
    preset: _Preset = None,
    seeds: _Seeds = "0",
    acac: Annotated[
        bool, typer.Option("--acac", help="acetylacetone too: trained at 300 K, tested at 300 and 600 K")
    ] = False,
    ccsd: Annotated[bool, typer.Option("--ccsd", help="ethanol by CCSD(T) too")] = False,
    pretrain: Annotated[
        str | None, typer.Option(help="gfn2 or gfn1: its frames are learned first, within the same time")
    ] = None,
    peers: Annotated[str, typer.Option(help="none, or schnetpack: its PaiNN is trained for the same time")] = "none",
    out: _Out = RESULTS,
    work: _Work = None,
    overwrite: _Overwrite = False,
    json: Json = False,
) -> None:
    """Errors on rMD17 and other sets in a fixed training time, beside published figures.

    Each model is trained by `equimd train` on one thread. Finished trainings are kept and interrupted ones resumed.
    With --peers schnetpack, SchNetPack's PaiNN is trained for the same time on the same frames.

    Examples:

        equimd bench accuracy --molecules ethanol --budget 5m --out bench
        equimd bench accuracy --molecules all --splits all --budget 90m
        equimd bench accuracy --molecules ethanol --sizes 50,200,950 --peers schnetpack
        equimd bench accuracy --molecules ethanol --preset accurate --budget 2h
        equimd bench accuracy --molecules none --acac --ccsd
        equimd bench accuracy --molecules none --acac --pretrain gfn2
    """
    from equimd.benchmarks.accuracy import accuracy_suite
    from equimd.methods import check_method

    if molecules == "none" and not (acac or ccsd):
        raise typer.BadParameter("--molecules none leaves nothing to be trained without --acac or --ccsd")
    named = "" if molecules == "none" else molecules
    options = _options(
        data, named, budget, peers, out, work, seeds, preset, results="accuracy.json", overwrite=overwrite
    )
    chosen = accuracy_suite.SPLITS if splits == "all" else _words(splits)
    wrong = set(_words(variants)) - {"conservative", "direct"}
    if wrong or not all(n.isdigit() and int(n) for n in _words(sizes)):
        raise typer.BadParameter("--variants conservative,direct; --sizes 50,200,950")
    if pretrain is not None:
        check_method(pretrain, "--pretrain")
    frames = tuple(int(n) for n in _words(sizes))
    sets = {"acac": acac, "ccsd": ccsd, "pretrain": pretrain}
    _show(accuracy_suite.run(options, splits=chosen, variants=_words(variants), sizes=frames, **sets), json)


@app.command(cls=_Command)
def speed(
    data: _Data = None,
    molecules: _Molecules = DEFAULT,
    threads: Annotated[str | None, typer.Option(help="CPU threads; default: 1, and all cores")] = None,
    runs: Annotated[str | None, typer.Option(help="molecule=RUN, calibrated runs: measures the guard")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="few and short measurements, on one thread")] = False,
    parts: Annotated[str, typer.Option(help="steps, memory, compile, large, target")] = "steps,memory,compile,large",
    budget: _Budget = "45m",
    peers: _Peers = None,
    out: _Out = RESULTS,
    work: _Work = None,
    overwrite: _Overwrite = False,
    json: Json = False,
) -> None:
    """Time of training and dynamics, peak memory and compile time, beside other packages in one interleaved run.

    The part "target" trains until the validation error of the forces is 10 meV/A, for three seeds, with --budget for
    each training; it runs only where asked for. The part "large" is equimd alone: time and memory against the number
    of atoms, up to 20,000, in boxes of water.

    `make peers` installs the other packages, each in an environment of its own. Let nothing else run meanwhile. What
    was measured before by the same code is not measured again.

    Examples:

        equimd bench speed --quick --peers none --out bench
        equimd bench speed --peers schnetpack,nequip,mace
        equimd bench speed --molecules ethanol --runs ethanol=runs/ethanol --parts steps
        equimd bench speed --molecules ethanol --parts target --peers schnetpack
        equimd bench speed --parts large --threads 1
    """
    from equimd.benchmarks.speed import speed_suite

    options = _options(data, molecules, budget, peers, out, work, results="speed.json", overwrite=overwrite)
    wrong = set(_words(parts)) - set(speed_suite.ALL_PARTS)
    numbers = _words(threads or "")
    if wrong or not all(n.isdigit() and int(n) for n in numbers):
        raise typer.BadParameter(f"--parts {','.join(speed_suite.ALL_PARTS)}; --threads 1,2")
    chosen = tuple(int(n) for n in numbers)
    _show(
        speed_suite.run(
            options, threads=chosen, runs=speed_suite.parse_runs(_words(runs or "")), quick=quick, parts=_words(parts)
        ),
        json,
    )


@app.command(cls=_Command)
def learning(
    ways: Annotated[
        str,
        typer.Option(
            help="random, logdet, sigma, ensemble-3; random-cheap, logdet-cheap: trained on from a model of a cheap "
            "method's frames; logdet-difference: the difference to the cheap method is learned; all"
        ),
    ] = "all",
    sizes: Annotated[str, typer.Option(help="labels of the trainings, ascending")] = "50,100,200",
    budget: _Budget = "8m",
    preset: _Preset = None,
    seeds: _Seeds = "0,1,2",
    out: _Out = RESULTS,
    work: _Work = None,
    overwrite: _Overwrite = False,
    json: Json = False,
) -> None:
    """Labels against error: frames chosen in several ways, with cheap labels before or without.

    Ethanol's bundled frames at 300 and 1000 K are chosen from, those at 600 K only tested on. The first 25 are drawn at
    random, the next chosen with the model of those before. Finished trainings are kept and interrupted ones resumed;
    several processes, with ways or seeds of their own, fill the same table. GFN1-xTB, the cheap method, needs tblite.

    Examples:

        equimd bench learning --ways random logdet --sizes 50 100 --seeds 0 --budget 2m --out bench
        equimd bench learning --overwrite
    """
    from equimd.benchmarks.learning import learning_suite
    from equimd.benchmarks.learning.chains import FIRST, WAYS

    options = _options(None, "", budget, "none", out, work, seeds, preset, results="learning.json", overwrite=overwrite)
    chosen = tuple(WAYS) if ways == "all" else _words(ways)
    counts = [int(n) if n.isdigit() else 0 for n in _words(sizes)]
    if set(chosen) - set(WAYS) or not counts or counts != sorted({*counts, FIRST})[1:]:
        raise typer.BadParameter(f"--ways {','.join(WAYS)}; --sizes 50,100,200, ascending and above {FIRST}")
    _show(learning_suite.run(options, ways=chosen, sizes=counts), json)


@app.command(cls=_Command)
def scale(
    kind: Annotated[str, typer.Option(help="mixed (2 to 350 atoms), compositions (20 to 40) or ethanol")] = "mixed",
    frames: Annotated[str, typer.Option(help="numbers of structures")] = "20000",
    shards: Annotated[int, typer.Option(min=1, help="files that they are in")] = 80,
    atoms: Annotated[int, typer.Option(min=350, help="of a batch, at most")] = 1000,
    steps: Annotated[int, typer.Option(min=8, help="of a training")] = 60,
    preset: _Preset = None,
    seeds: _Seeds = "0",
    out: _Out = RESULTS,
    work: _Work = None,
    overwrite: _Overwrite = False,
    json: Json = False,
) -> None:
    """Training on more and more structures of many sizes: first step, memory, atoms a second.

    Structures of 2 to 350 atoms with charges and spins, as varied as OMol25's, are made and labelled by a formula, and
    trained on from a folder of shards with batches by atoms, on one thread. A training that is killed and gone on with
    shows whether it takes the same batches. 20,000 structures take some minutes and 100 MB, 200,000 ten times as much.
    Of other kinds a batch is 10 structures; of ethanol data inspect, data convert and calibrate are measured, too.

    Examples:

        equimd bench scale --out bench
        equimd bench scale --frames 20000 200000 --steps 100
        equimd bench scale --kind ethanol --frames 100000 1000000
    """
    from equimd.benchmarks.scale import scale_suite

    options = _options(None, "", "1h", "none", out, work, seeds, preset, results="scale.json", overwrite=overwrite)
    if not frames or not all(n.isdigit() and int(n) >= 100 for n in _words(frames)):
        raise typer.BadParameter("--frames 20000,200000, each at least 100")
    if kind not in scale_suite.KINDS:
        raise typer.BadParameter(f"--kind {kind}: one of {', '.join(scale_suite.KINDS)}")
    counts = [int(n) for n in _words(frames)]
    _show(scale_suite.run(options, kind=kind, frames=counts, shards=shards, max_atoms=atoms, steps=steps), json)


@app.command(cls=_Command)
def report(out: _Out = RESULTS, overwrite: Overwrite = False, json: Json = False) -> None:
    """Join the tables of all suites that have results into one page, report.md.

    Examples:

        equimd bench report
        equimd bench report --out bench
    """
    from equimd.benchmarks.results import join
    from equimd.files import check_output

    check_output(out / "report.md", overwrite)
    path = join(out)
    if json:
        echo_json({"path": path})
    else:
        _show(path, as_json=False)


def _add(name: str, suite: Suite) -> None:
    """The command of a suite that takes the shared options alone."""

    def command(
        data: _Data = None,
        molecules: Annotated[str | None, typer.Option(help="data sets; default: those the suite is made for")] = None,
        budget: _Budget = "45m",
        seeds: _Seeds = "0",
        quick: Annotated[bool, typer.Option("--quick", help="few frames and short runs: shows that it works")] = False,
        out: _Out = RESULTS,
        work: _Work = None,
        overwrite: _Overwrite = False,
        json: Json = False,
    ) -> None:
        named = ",".join(imported(suite.molecules)) if molecules is None else molecules
        given = (data, named, budget, "none", out, work, seeds)
        _show(imported(suite.run)(_options(*given, results=f"{name}.json", overwrite=overwrite), quick=quick), json)

    example = f"Examples:\n\n        equimd bench {name}\n        equimd bench {name} --molecules ethanol --out bench"
    command.__doc__ = f"{suite.title}\n\n    {example}\n    "
    app.command(name, cls=_Command)(command)


for _name, _suite in SUITES.items():
    if _suite.run is not None:
        _add(_name, _suite)
