"""Commands run in this process, and what they leave: exit code, output, files, with what is volatile masked."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from typer.testing import CliRunner

ENVIRONMENT = {"COLUMNS": "120", "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "EQUIMD_DEBUG": "0"}
#: Keys of JSON objects and columns of CSV files whose values differ from run to run or machine to machine.
VOLATILE = {
    "versions", "created", "training_seconds", "compiling_seconds", "ns_per_day", "ns_per_day_total", "seconds",
    "time_s", "step_ms", "atoms_per_second", "waiting_share", "posterior_sha256", "calibration_sha256", "threads",
}  # fmt: skip
#: Lines on stderr about time and place.
TALK = re.compile(r"takes about|\d [kMG]?B\b|epoch \d|\bleft\b|ns/day|atoms/s|\d of [\d,]+(?: [a-z]+)?$| \| ")
NUMBER = re.compile(r"[-+\d.e]+")
PNG = b"\x89PNG"


def _no_drawing(self: Any, to: Any, *_: Any, **__: Any) -> None:
    """In the place of matplotlib's rendering, which would take longer than all the rest."""
    if hasattr(to, "write"):
        to.write(PNG)
    else:
        Path(to).write_bytes(PNG)


_LAYERS: dict[str, Any] = {}


@contextlib.contextmanager
def quick_layers() -> Iterator[None]:
    """e3nn writes and optimises the code of every linear layer when a model is built, which takes longer than all that
    is done with models as small as these: here the same code once. It holds no weights, so that layers may share it."""
    from e3nn.o3 import _linear

    write = _linear._codegen_linear

    def written(*args: Any, **options: Any) -> Any:
        key = repr((args, sorted(options.items())))
        if key not in _LAYERS:
            _LAYERS[key] = write(*args, **options)
        return _LAYERS[key]

    with mock.patch.object(_linear, "_codegen_linear", written):
        yield


@contextlib.contextmanager
def _surroundings(folder: Path) -> Iterator[None]:
    """In ``folder``, with nothing cached: a potential compiled earlier would be used, and is other bits."""
    environment = {**ENVIRONMENT, "EQUIMD_CACHE": str(folder / ".cache")}
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, environment),
        mock.patch("matplotlib.figure.Figure.savefig", _no_drawing),
    ):
        yield


class Shell:
    """A folder in which commands are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def run(self, *words: str) -> dict[str, Any]:
        """``equimd WORDS``: what it said and did."""
        from tests.golden.adapter import app

        before = self._files()
        with _surroundings(self.folder):
            told = CliRunner().invoke(app, list(words))
        if told.exception is not None and not isinstance(told.exception, SystemExit):
            raise told.exception
        out: dict[str, Any] = {"command": " ".join(words), "exit_code": told.exit_code}
        if told.stdout.startswith("{"):
            out["json"] = self.masked(json.loads(told.stdout))
        else:
            out["stdout"] = [re.sub(r"[\d.e+]+ ns/day", "# ns/day", line) for line in self._lines(told.stdout)]
        out["stderr"] = [line for line in self._lines(told.stderr) if not TALK.search(line)]
        after = self._files()
        changed = sorted(name for name, written in after.items() if before.get(name) != written)
        out["files"] = {name: self.content(self.folder / name) for name in changed}
        return out

    def _files(self) -> dict[str, int]:
        """When each was written: a file written anew counts, even with the same bits in it."""
        paths = [p for p in self.folder.rglob("*") if p.is_file() and ".cache" not in p.parts]
        return {str(p.relative_to(self.folder)): p.stat().st_mtime_ns for p in paths}

    def _text(self, text: str) -> str:
        return text.replace(str(self.folder), "<folder>")

    def _lines(self, text: str) -> list[str]:
        return [line.rstrip() for line in self._text(text).splitlines() if line.strip()]

    def masked(self, value: Any) -> Any:
        """A JSON value without what is volatile."""
        if isinstance(value, dict):
            return {k: "<masked>" if k in VOLATILE else self.masked(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.masked(v) for v in value]
        return self._text(value) if isinstance(value, str) else value

    def content(self, path: Path) -> Any:
        """A file as plain values and arrays; of weights only what must not depend on rounding."""
        reader = READERS.get(path.suffix)
        found = reader(path) if reader else f"{path.suffix} file"
        if path.name == "run.json":  # written by a training: the weights' last bits differ from one CPU to another
            found["model_sha256"] = "<masked>"
        return self.masked(found) if path.suffix in (".json", ".yaml", ".csv", ".txt") else found


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text())


def _csv(path: Path) -> dict[str, list[Any]]:
    with path.open() as file:
        header, *rows = csv.reader(file)
    columns = zip(*rows, strict=True)
    named = zip(header, columns, strict=False)  # of a table without rows there are no columns
    return {name: [float(x) if NUMBER.fullmatch(x) else x for x in column] for name, column in named}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _extxyz(path: Path) -> list[dict[str, Any]]:
    """Frames that hold arrays of the same names and shapes are one entry, with an array of theirs for each name."""
    from ase.io import read

    alike: dict[Any, dict[str, list[Any]]] = {}
    for row, atoms in enumerate(read(path, ":", format="extxyz") if path.stat().st_size else []):
        known = {} if atoms.calc is None else {k: v for k, v in atoms.calc.results.items() if v is not None}
        values = {"row": row, **atoms.info, **atoms.arrays, **known, "pbc": atoms.pbc}
        values |= {"cell": atoms.cell.array} if atoms.pbc.any() else {}
        group = alike.setdefault(tuple((k, np.shape(v)) for k, v in values.items()), {k: [] for k in values})
        for name, value in values.items():
            group[name].append(value)
    return [{k: np.stack(v) for k, v in group.items()} for group in alike.values()]


def _hdf5(path: Path) -> dict[str, Any]:
    import h5py

    out: dict[str, Any] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            out[name] = item[()] if item.dtype.kind in "fiub" else f"dataset {item.shape}"
            out[f"{name} dtype"] = str(item.dtype)

    with h5py.File(path) as file:
        file.visititems(take)
    return out


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as file:
        header = json.loads(file.metadata()["equimd"])
        names = sorted(file.keys())
        out: dict[str, Any] = {"kind": header["kind"], "version": header["version"], "header": sorted(header)}
        whole = header["kind"] in ("md-start", "md-restart")
        for name in names:
            array = file.get_tensor(name)
            out[name] = array if whole else f"{array.dtype} {tuple(array.shape)}"
    return out


READERS: dict[str, Any] = {
    ".json": _json, ".yaml": _yaml, ".csv": _csv, ".txt": _lines, ".xyz": _extxyz, ".extxyz": _extxyz, ".h5": _hdf5,
    ".h5md": _hdf5, ".safetensors": _safetensors,
    ".png": lambda path: "PNG" if path.read_bytes().startswith(PNG) else "no PNG",
}  # fmt: skip
