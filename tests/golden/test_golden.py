"""The golden record: every part, computed by this tree, against what was recorded (see ``record.py``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import compare
from tests.golden.record import PARTS, produce


@pytest.mark.parametrize("name", PARTS)
def test_answers_are_those_recorded(name: str, tmp_path: Path) -> None:
    found = compare.compare(compare.load(name), produce(name, tmp_path), PARTS[name].near)
    assert not found, "\n".join([f"{len(found)} differences from tests/golden/answers/{name}.json", *found[:20]])
