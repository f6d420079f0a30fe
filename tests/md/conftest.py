"""One compiled artefact for all tests that need one: compiling takes tens of seconds of a processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from equimd.machine import has_compiler

from .compiled import field
from .test_forcefield import replicas


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the artefact of ``compiled.field("float64")``."""
    if not has_compiler():
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQUIMD_CACHE", str(folder))
        made = field("float64")
        made(replicas(2))
        assert made.compiled
    return folder
