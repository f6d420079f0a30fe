"""The command line of suites run as modules: ``python -m equimd.benchmarks.<suite>``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimd.benchmarks.options import Options, data_folders
from equimd.progress import parse_duration


def parse(
    about: str | None,
    argv: Sequence[str] | None,
    *,
    molecules: Sequence[str],
    seeds: Sequence[int],
    parts: Sequence[str],
    budget: str = "45m",
    **more: Any,
) -> tuple[Options, dict[str, Any]]:
    """Options, and the suite's own settings by name.

    Args:
        about: docstring of the suite.
        molecules, seeds, parts, budget: their defaults.
        more: further settings and their defaults, of which the type is taken; of a tuple, any of its items.
    """
    text = (about or "").split("\n")[0]
    started = sys.modules["__main__"].__spec__  # None where a suite is called, not started
    name = "" if started is None else f"python -m {started.name.removesuffix('.__main__')}"
    form = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog=name or None, description=text, formatter_class=form)
    parser.add_argument("--data", type=Path, help="folder of data files")
    parser.add_argument("--molecules", nargs="+", default=list(molecules), help="molecules of rMD17, acac, bundled")
    parser.add_argument("--budget", default=budget, help="training time of a model, compilation included")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds), help="of the trainings")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="what is measured")
    parser.add_argument("--out", type=Path, default=Path("benchmarks") / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, help="folder of trained models and raw measurements")
    parser.add_argument("--quick", action="store_true", help="small and short: shows that it works, and nothing else")
    for option, value in more.items():
        some: dict[str, Any] = {"type": type(value)}
        if isinstance(value, tuple):
            some = {"nargs": "+", "choices": value}
        parser.add_argument(f"--{option.replace('_', '-')}", default=value, **some)
    given = vars(parser.parse_args(argv))
    seconds = float(str(parse_duration(given["budget"])))
    work = {} if given["work"] is None else {"work": given["work"]}
    options = Options(
        data_folders(given["data"]),
        tuple(given["molecules"]),
        seconds,
        out=given["out"],
        seeds=tuple(given["seeds"]),
        **work,
    )
    return options, {name: given[name] for name in ("parts", "quick", *more)}
