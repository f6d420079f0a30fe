"""What is used of laplace-torch, imported in spite of a torchvision that does not fit the torch beside it.

laplace-torch and what it needs declare torchvision and use none of it, but torchmetrics imports whatever torchvision is
installed. One from another place than the torch, as pip puts it beside a torch without CUDA, cannot be imported
("operator torchvision::nms does not exist"): an empty one then stands in for it while laplace-torch is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAME = "torchvision"


class _Empty(ModuleType):
    """A module in which everything is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)


class _EmptyFinder(MetaPathFinder, Loader):
    """Finds torchvision and all its parts empty."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] == NAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


@contextmanager
def _without_a_broken_torchvision() -> Iterator[None]:
    try:
        importlib.import_module(NAME)
    except ModuleNotFoundError:
        yield
        return
    except Exception:  # RuntimeError of torch, OSError of a library, whatever it raises: it is of no use here
        _forget()
    else:
        yield
        return
    finder = _EmptyFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget()  # whoever asks for it later gets its own error


with _without_a_broken_torchvision():
    from laplace import FullLLLaplace
    from laplace.curvature import GGNInterface

__all__ = ["FullLLLaplace", "GGNInterface"]
