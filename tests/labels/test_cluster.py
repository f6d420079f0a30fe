"""Labels through Parsl's HighThroughputExecutor on the loopback, a worker killed in the middle."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from equimd.errors import ConfigError
from tests.labels.methods import MODULE
from tests.labels.test_pool import frame

pytest.importorskip("parsl")

CONFIG = """
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

config = Config(
    executors=[
        HighThroughputExecutor(
            address="127.0.0.1", loopback_address="127.0.0.1", max_workers_per_node=1, encrypted=False,
            heartbeat_period=1, heartbeat_threshold=10,
            provider=LocalProvider(init_blocks=1, max_blocks=1, worker_init="export PYTHONPATH={here}"),
        )
    ],
    run_dir={folder!r},
    usage_tracking=0,
)
"""


def config_file(folder: Path) -> Path:
    path = folder / "cluster.py"
    path.write_text(CONFIG.format(folder=str(folder / "runinfo"), here=Path(__file__).resolve().parents[2]))
    return path


def test_a_lost_worker_costs_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from equimd.labels.cluster import Cluster

    monkeypatch.setenv("EQUIMD_TEST_ONCE", str(tmp_path / "died"))
    frames = {0: frame(0, 1), 1: frame(6, 2), 2: frame(1, 3), 3: frame(0, 4)}
    with closing(Cluster(f"{MODULE}:Failing", config_file(tmp_path))) as cluster:
        found = dict(cluster.labels(frames))
    assert (tmp_path / "died").is_file(), "a worker was killed in the middle"
    assert found.keys() == frames.keys()
    assert "did not converge" in found[2].failed
    for key in (0, 1, 3):
        assert not found[key].failed and np.isfinite(found[key].forces).all()


def test_bad_configurations_are_said(tmp_path: Path) -> None:
    from equimd.labels.cluster import Cluster

    with pytest.raises(ConfigError, match="no such configuration"):
        Cluster("gfn2", tmp_path / "missing.py")
    for text, what in (("config = 3", "does not name"), ("1 / 0", "ZeroDivisionError")):
        (tmp_path / "bad.py").write_text(text)
        with pytest.raises(ConfigError, match=what):
            Cluster("gfn2", tmp_path / "bad.py")
