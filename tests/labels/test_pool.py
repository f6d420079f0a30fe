"""Labels in processes: every way to fail costs one label, and each label is on disk once it is there."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from equimd.data.frames import Frames
from equimd.errors import RunError
from equimd.labels.label import Label, ask
from equimd.labels.ledger import LabelStore
from equimd.labels.pool import LocalPool
from tests.labels.methods import MODULE
from tests.training.toy import WATER, springs


def frame(kind: int = 0, seed: int = 0) -> Frames:
    x = WATER + np.random.default_rng([kind, seed]).normal(0, 0.02, WATER.shape) + [10.0 * kind, 0, 0]
    return Frames.build(np.array([8, 1, 1]), x[None])


def test_every_failure_costs_one_label() -> None:
    frames = {k: frame(k % 6, k) for k in range(8)}
    with closing(LocalPool(f"{MODULE}:Failing", jobs=2, limit=2.0)) as pool:
        found = dict(pool.labels(frames))
    assert found.keys() == frames.keys()
    for k, label in found.items():
        kind = k % 6
        assert bool(label.failed) == bool(kind), label.failed
        if not kind:
            energy, forces = springs(frames[k].positions[0], WATER)
            assert label.energy == pytest.approx(energy)
            np.testing.assert_allclose(label.forces, forces)
        else:
            assert np.isnan(label.energy)
    parts = ("did not converge", "not finite", "died (exit code 7)", "no answer in 2 s", "ZeroDivision")
    for k, part in enumerate(parts, 1):
        assert part in found[k].failed


def test_a_method_that_is_not_there_fails_every_label() -> None:
    assert "cannot import" in ask("nowhere:Nothing", frame()).failed


def test_store_keeps_each_label(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels", "some:Method")
    first, second = frame(0, 1), frame(0, 2)
    assert store.get(first) is None
    label = Label(-1.5, np.arange(9.0).reshape(3, 3), "springs", 0.25)
    store.put(first, label)
    store.put(second, Label.failure(second, "no\nconvergence", 3.0))
    again = LabelStore(tmp_path / "labels", "some:Method")
    known = again.get(first)
    assert known is not None
    assert (known.energy, known.theory, known.seconds, known.failed) == (-1.5, "springs", 0.25, "")
    np.testing.assert_array_equal(known.forces, label.forces)
    failed = again.get(second)
    assert failed is not None and failed.failed == "no" and np.isnan(failed.forces).all()
    assert LabelStore(tmp_path / "labels", "other:Method").get(first) is None, "another method was not asked"
    again.path(first).write_bytes(b"half a fi")
    with pytest.raises(RunError, match="damaged"):
        again.get(first)
