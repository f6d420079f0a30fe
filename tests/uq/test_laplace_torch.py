"""A torchvision that does not fit the torch beside it keeps nobody from calibrating."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import equimd.uq.laplace, sys
from laplace import FullLLLaplace
print(equimd.uq.laplace.FullLLLaplace is FullLLLaplace, any(n.startswith("torchvision") for n in sys.modules))
import torchvision
"""


@pytest.mark.parametrize("error", ["RuntimeError('operator torchvision::nms does not exist')", "OSError('_C.so')"])
def test_a_broken_torchvision_is_kept_out(tmp_path: Path, error: str) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(f"raise {error}")
    (tmp_path / "torchvision-0.28.0.dist-info").mkdir()
    (tmp_path / "torchvision-0.28.0.dist-info/METADATA").write_text("Name: torchvision\nVersion: 0.28.0\n")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "False"]
    assert done.returncode == 1 and error.split("'")[1] in done.stderr  # whoever wants it gets its own error
