"""Runs, calibrations and a simulation that are kept with the tests, so that nothing is trained here."""

from __future__ import annotations

import shutil
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
