"""Runs, calibrations and a simulation that are kept with the tests, so that nothing is trained here."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

from tests.golden.saved import SAVED
from tests.golden.shell import quick_layers


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``conservative``, ``direct`` ..., their data, and the simulation ``simulation``."""
    folder = tmp_path_factory.mktemp("reported") / "kept"
    shutil.copytree(SAVED, folder)
    return folder


@pytest.fixture(autouse=True)
def _among_them(kept: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Their settings name files beside them."""
    monkeypatch.chdir(kept)
    with quick_layers():
        yield


@pytest.fixture(scope="session")
def watched(kept: Path) -> Path:
    """A simulation of three replicas that flags and, in ``halted``, one that halts; both in ``kept``."""
    import equimd

    common = {"save_every": 5, "compile": "off", "threads": 1}
    with pytest.MonkeyPatch.context() as patch, quick_layers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(kept)
        patch.setattr("equimd.tasks.simulate.plot.simulation", lambda *_, **__: None)
        start = "water.start.xyz"
        equimd.simulate(
            "direct", start, temperature=1500, steps=40, uq_threshold="0.1eV/A", on_exceed="flag", replicas=3,
            out="flagged", **common,
        )  # fmt: skip
        equimd.simulate("direct", start, temperature=1500, steps=60, uq_threshold="0.148eV/A", out="halted", **common)
    return kept
