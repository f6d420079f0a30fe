"""Tables that users may add to: names and what they stand for, and the extensions that add to them.

An extension is a module outside the package that adds an ensemble, a reader, a command ... when it is imported
(docs/development/extending.md). It is found by the entry point group ``equimd.extensions`` of an installed package,
or by the environment variable ``EQUIMD_EXTENSIONS``: module names or paths of .py files, separated as in PATH. None
is imported before a table is asked for a name it does not hold, or for all its names.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from equimd.errors import ConfigError, EquimdError

GROUP, VARIABLE = "equimd.extensions", "EQUIMD_EXTENSIONS"
Entry = TypeVar("Entry")
Added = TypeVar("Added")


def imported(reference: Any) -> Any:
    """What ``"module:attribute"`` names, imported now; anything else is itself."""
    if not isinstance(reference, str):
        return reference
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry(Mapping[str, Entry]):
    """Entries by name, in the order they were added.

    Args:
        kind: what an entry is, for messages: ``"ensemble"``.
        variable: the name this table has in its module. An extension in one file that does not mention it is not
            imported for it.
        entries: those of the package itself; ``"module:attribute"`` stands for what is imported when it is asked for.
    """

    def __init__(self, kind: str, variable: str, entries: Mapping[str, Entry | str]) -> None:
        self.kind, self.variable = kind, variable
        self._entries: dict[str, Any] = dict(entries)
        self._own = frozenset(entries)

    @property
    def added(self) -> list[str]:
        """Names that are not the package's own."""
        return [name for name in self if name not in self._own]

    def add(self, name: str, entry: Entry) -> None:
        """Add an entry under a new name.

        Raises:
            ConfigError: not a name, or one that is taken.
        """
        if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
            hint = "small letters, digits, and single hyphens or underscores between them"
            raise ConfigError(f"the {self.kind} '{name}' cannot be called so", hint=hint)
        if name in self._entries:
            raise ConfigError(f"the {self.kind} '{name}' is there already", hint="another name")
        self._entries[name] = entry

    def register(self, name: str) -> Callable[[Added], Added]:
        """:meth:`add` as a decorator of a class or function."""

        def added(entry: Added) -> Added:
            self.add(name, entry)  # type: ignore[arg-type]
            return entry

        return added

    def remove(self, name: str) -> None:
        """Take an entry out again.

        Raises:
            ConfigError: there is none.
        """
        self[name]
        del self._entries[name]

    def __getitem__(self, name: str) -> Entry:
        """Raises:
        ConfigError: no such name (the nearest one is named), or an extension that cannot be imported.
        """
        if name not in self:
            raise ConfigError(f"no {self.kind} '{name}'", hint=self._instead(name))
        self._entries[name] = imported(self._entries[name])
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._entries:
            load_extensions(self.variable)
        if name not in self._entries:
            load_extensions()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        load_extensions(self.variable)
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(tuple(iter(self)))

    def check(self, name: str) -> str:
        """The name itself, for a setting that takes one.

        Raises:
            ValueError: no such name; says which there are.
            ConfigError: an extension that cannot be imported.
        """
        if name not in self:
            known = [f"'{k}'" for k in self]
            near = get_close_matches(name, self, n=1, cutoff=0.5)
            text = f"Input should be {', '.join(known[:-1])} or {known[-1]}"
            raise ValueError(text + (f"; did you mean '{near[0]}'?" if near else ""))
        return name

    def _instead(self, name: str) -> str:
        near = get_close_matches(name, self, n=1, cutoff=0.5)
        return (f"did you mean '{near[0]}'? There are " if near else "one of ") + ", ".join(self)


@dataclass(frozen=True)
class _Extension:
    """A module name or a path of a file, and where it was found."""

    reference: str
    found: str

    @property
    def path(self) -> Path | None:
        """Of a file that was named by its path."""
        return Path(self.reference).expanduser() if self.reference.endswith(".py") else None

    def source(self) -> str | None:
        """Its text, where it is one file that can be read without importing it."""
        try:
            path = self.path
            if path is None:
                spec = importlib.util.find_spec(self.reference)
                if spec is None or spec.submodule_search_locations or not str(spec.origin).endswith(".py"):
                    return None
                path = Path(str(spec.origin))
            return path.read_text(encoding="utf-8")
        except (ImportError, OSError, ValueError):
            return None  # said when it is imported


_imported: dict[_Extension, ConfigError | None] = {}


def load_extensions(variable: str | None = None) -> None:
    """Import the extensions that have not been imported yet; with ``variable``, those that may add to that table.

    Raises:
        ConfigError: one that cannot be imported; says which and why.
    """
    for extension in (*_named_by_the_environment(), *_installed()):
        if extension not in _imported:
            source = None if variable is None else extension.source()
            if variable is not None and source is not None and variable not in source:
                continue
            _imported[extension] = None  # before it is imported: it may ask for names itself
            _imported[extension] = _import(extension)
        error = _imported[extension]
        if error is not None:
            raise error


def _named_by_the_environment() -> list[_Extension]:
    words = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [_Extension(word.strip(), VARIABLE) for word in words if word.strip()]


@cache
def _installed() -> tuple[_Extension, ...]:
    from importlib.metadata import entry_points

    found = entry_points(group=GROUP)
    return tuple(_Extension(e.value, f"the package {e.dist.name}" if e.dist else GROUP) for e in found)


def _import(extension: _Extension) -> ConfigError | None:
    """The error, if it cannot be imported."""
    hint = f"mend it, or take it out of {VARIABLE}" if extension.found == VARIABLE else f"mend {extension.found}"
    where = f"extension {extension.reference}"
    try:
        if extension.path is None:
            importlib.import_module(extension.reference)
        else:
            _import_file(extension.path)
    except (Exception, SystemExit) as error:  # a module may raise anything
        what = error.what if isinstance(error, EquimdError) else f"{type(error).__name__}: {error}"
        line = _line(error, extension)
        wrong = ConfigError(f"cannot be imported: {what}", where=where + (f", line {line}" if line else ""), hint=hint)
        wrong.__cause__ = error
        return wrong
    return None


def _import_file(path: Path) -> ModuleType:
    name = f"equimd_extension_{path.stem}"
    if name in sys.modules:
        raise ConfigError(f"another extension is a file of this name: {sys.modules[name].__file__}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError("is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _line(error: BaseException, extension: _Extension) -> int | None:
    """The line of the extension's own file in which the error arose."""
    if isinstance(error, SyntaxError):
        return error.lineno
    name, found, trace = Path(extension.reference).stem, None, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).stem == name:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found
