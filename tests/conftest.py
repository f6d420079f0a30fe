"""Fixtures and settings that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread a test process: results do not depend on the machine, and parallel test processes do not fight.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer's shell sets must not change a test."""
    for name in ("EQUIMD_DEBUG", "EQUIMD_EXTENSIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real reference data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no reference data in ../shared/data ({SHARED_DATA})")
    return SHARED_DATA


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A path for a run folder that does not exist yet."""
    return tmp_path / "run"


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the artefact of ``compiled.field("float64")``: compiling takes tens of seconds of a processor."""
    from equimd.machine import has_compiler

    if not has_compiler():
        pytest.skip("no C++ compiler")
    from tests.forces.compiled import field
    from tests.forces.test_forcefield import replicas

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQUIMD_CACHE", str(folder))
        made = field("float64")
        made(replicas(2))
        assert made.compiled
    return folder
