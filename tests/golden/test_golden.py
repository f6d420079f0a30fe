"""The golden record: every part, computed by this tree, against what was recorded (see ``record.py``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import compare
from tests.golden.commands import SCENARIOS
from tests.golden.record import PARTS, produce


@pytest.mark.parametrize("name", PARTS)
def test_answers_are_those_recorded(name: str, tmp_path: Path) -> None:
    found = compare.compare(compare.load(name), produce(name, tmp_path), PARTS[name].near)
    assert not found, "\n".join([f"{len(found)} differences from tests/golden/answers/{name}.json", *found[:20]])


def test_no_output_in_a_pipe_holds_control_characters() -> None:
    """Of every command line that is recorded: what a terminal alone understands would be in redirected logs, too."""
    told = [text for name in SCENARIOS for text in _texts(compare.load(name))]
    assert len(told) > 500 and not [text for text in told if any(ord(c) < 32 and c not in "\n\t" for c in text)]


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inside for text in _texts(each)]
