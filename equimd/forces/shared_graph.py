"""A graph that torch compiled ahead of time, called through its C interface.

The interface of ``torch/csrc/inductor/aoti_runtime/interface.h``, which keeps to C types and is stable. Calls made
this way let other Python threads run meanwhile; those of torch's own loader do not, so that blocks of replicas could
only wait for each other.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# torch hands pointers to Python in capsules without a name
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)


class SharedGraph:
    """``outputs = graph(inputs)`` on the processor, from as many threads at once as there are ``runners``.

    Args:
        path: the shared library that torch's ahead-of-time compiler made; it needs no kernels of Python.

    Raises:
        OSError: it cannot be loaded.
        RuntimeError: it is no such library, or it failed.
    """

    def __init__(self, path: Path, runners: int) -> None:
        self._library = ctypes.CDLL(str(path))
        self._container, count = ctypes.c_void_p(), ctypes.c_size_t()
        self._do("CreateWithDevice", ctypes.byref(self._container), ctypes.c_size_t(runners), b"cpu", None)
        delete = self._library.AOTInductorModelContainerDelete
        weakref.finalize(self, delete, ctypes.c_void_p(self._container.value))
        self._do("GetNumOutputs", self._container, ctypes.byref(count))
        self._outputs = count.value

    def _do(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, f"AOTInductorModelContainer{name}")
        except AttributeError:
            raise RuntimeError(f"not a compiled graph: there is no {name}") from None
        if function(*arguments):
            raise RuntimeError(f"the compiled graph failed in {name}")

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The graph takes over the handles of its inputs, and the caller those of its outputs."""
        handles = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(list(inputs))
        given = (ctypes.c_void_p * len(handles))(*(_pointer(x, None) for x in handles))
        made = (ctypes.c_void_p * self._outputs)()
        sizes = ctypes.c_size_t(len(handles)), ctypes.c_size_t(self._outputs)
        self._do("Run", self._container, given, sizes[0], made, sizes[1], None, None)
        return torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs([_capsule(x, None, None) for x in made])
