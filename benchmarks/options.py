"""What every benchmark suite takes: data, molecules, budget, peers, where results and work go."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from equimd.errors import ConfigError, DataError
from equimd.files import cache_folder

PEERS = ("schnetpack", "nequip", "mace")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Options:
    """Settings of a suite.

    Attributes:
        data: folders searched for data files, first to last.
        molecules: of the data set, by the names its files have.
        budget_s: seconds of one training, compilation included.
        peers: measured beside equimd.
        out: takes <suite>.json, the table and plots.
        work: keeps trained models and raw measurements, so that nothing finished is repeated.
        seeds: of trainings.
        preset: of the models; without one, what the budget brings farthest.
    """

    data: tuple[Path, ...]
    molecules: tuple[str, ...] = ("ethanol", "aspirin")
    budget_s: float = 2700.0
    peers: tuple[str, ...] = ()
    out: Path = field(default_factory=lambda: Path("benchmarks") / "results")
    work: Path = field(default_factory=lambda: cache_folder() / "benchmarks")
    seeds: tuple[int, ...] = (0,)
    preset: str | None = None


def data_folders(given: Path | None) -> tuple[Path, ...]:
    """The folder given, or the usual ones: what `equimd data fetch` filled, ``data``, ``../shared/data``.

    Raises:
        DataError: the folder given does not exist.
    """
    if given is not None:
        if not given.is_dir():
            raise DataError("there is no such folder", where=str(given))
        return (given,)
    return tuple(p for p in (cache_folder(), Path("data"), HERE.parent.parent / "shared" / "data") if p.is_dir())


def find_file(folders: Sequence[Path], name: str, hint: str) -> Path:
    """A data file, in one of the folders or in a folder of these.

    Raises:
        DataError: it is in none of them.
    """
    for folder in folders:
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if path.is_file():
                return path
    searched = ", ".join(map(str, folders)) or "no folder"
    raise DataError(f"{name} was not found ({searched})", hint=hint)


def rmd17_files(folders: Sequence[Path], molecule: str, split: str = "01") -> tuple[Path, Path]:
    """Training and test file of an rMD17 split.

    Raises:
        DataError: one of them is missing.
    """
    hint = f"equimd data fetch rmd17 {molecule} --split {split}, or --data FOLDER"
    train, test = (find_file(folders, f"rmd17_{molecule}_{part}_{split}.npz", hint) for part in ("train", "test"))
    return train, test


def peer_python(peer: str) -> Path:
    """The Python of a peer's environment, which `make peers` made.

    Raises:
        ConfigError: an unknown peer, or one that is not installed.
    """
    if peer not in PEERS:
        raise ConfigError(f"unknown peer '{peer}'", hint=", ".join(PEERS))
    folder = cache_folder() / "peers" / peer
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists() or not (folder / "versions.txt").exists():
        raise ConfigError(f"{peer} is not installed", where=str(folder), hint="make peers, in a checkout of equimd")
    return python


def installed_peers() -> tuple[str, ...]:
    """The peers that have an environment."""
    found = []
    for peer in PEERS:
        try:
            peer_python(peer)
        except ConfigError:
            continue
        found.append(peer)
    return tuple(found)


def say(message: str) -> None:
    """Progress, on standard error."""
    print(message, file=sys.stderr, flush=True)
