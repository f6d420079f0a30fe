"""Extensions in tests: found as a user's are, and forgotten afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from equimd import registry


def _forget_commands() -> dict[str, Any]:
    """Take the commands' modules out, whose options are made when they are imported; returns them."""
    kept = [f"equimd.cli.{name}" for name in ("main", "common", "commands", "options", "arguments")]
    found = [name for name in sys.modules if name.startswith("equimd.cli.") and name not in kept]
    return {name: sys.modules.pop(name) for name in found}


@contextmanager
def extended(*references: str | Path) -> Iterator[list[str]]:
    """With these modules or files in ``EQUIMD_EXTENSIONS``; gives the names of the entries they have added so far."""
    added: list[tuple[registry.Registry[Any], str]] = []
    names: list[str] = []
    add, commands = registry.Registry.add, _forget_commands()

    def noted(table: registry.Registry[Any], name: str, entry: Any) -> None:
        add(table, name, entry)
        added.append((table, name))
        names.append(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(registry.VARIABLE, os.pathsep.join(map(str, references)))
        patch.setattr(registry, "_imported", {})
        patch.setattr(registry.Registry, "add", noted)
        try:
            yield names
        finally:
            for table, name in added:
                table.remove(name)
            for reference in references:
                sys.modules.pop(str(reference), None)
                sys.modules.pop(f"equimd_extension_{Path(reference).stem}", None)
            _forget_commands()
            sys.modules.update(commands)
