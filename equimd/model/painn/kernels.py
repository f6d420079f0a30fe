"""The native kernels of PaiNN: built for one precision and lmax, called by operators that torch can trace.

They are built by the C++ compiler that the graph compiler uses, and cached with its other products. A compiled graph of
forces has their source in its own library and calls them without Python.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equimd.model.painn.coupling_terms import coupling_terms

_SCALARS = {torch.float32: "float", torch.float64: "double"}
_FOLDER = Path(__file__).parent
_LIBRARY = torch.library.Library("equimd", "FRAGMENT")


def _sums(name: str, terms: list[tuple[int, int, int, float]]) -> str:
    """A macro: each component's sum of c PAIR(i, j) over its terms (k, i, j, c), those of one c added first."""
    groups: dict[tuple[int, float], tuple[float, list[str]]] = {}
    for k, i, j, c in sorted(terms):
        groups.setdefault((k, round(c, 12)), (c, []))[1].append(f"PAIR({i}, {j})")
    sums = [f"TO[{k}] += S({c!r}) * ({' + '.join(pairs)});" for (k, _), (c, pairs) in groups.items()]
    return f"#define {name}(TO, PAIR) {' '.join(sums)}\n"


def source(dtype: torch.dtype, lmax: int) -> str:
    """C++ of the kernels for one precision and lmax; wants ``<cstdint>`` and ``<type_traits>`` before it."""
    terms = coupling_terms(lmax)
    defined = f"#define SCALAR {_SCALARS[dtype]}\n#define LMAX {lmax}\n" + _sums("PRODUCT", terms)
    defined += _sums("BY_X", [(i, k, j, c) for k, i, j, c in terms]) + _sums(
        "BY_Y", [(j, k, i, c) for k, i, j, c in terms]
    )
    return defined + "\n".join((_FOLDER / name).read_text() for name in ("pairs.cpp", "coupling.cpp"))


def shims() -> str:
    """C++ of the functions by which a compiled graph calls the kernels."""
    return (_FOLDER / "kernels_shims.cpp").read_text()


@functools.cache
def _library(dtype: torch.dtype, lmax: int) -> Any:
    from torch._inductor import config
    from torch._inductor.codecache import CppCodeCache

    exported = (_FOLDER / "kernels_library.cpp").read_text()
    with config.patch({"cpp.enable_floating_point_contract_flag": "fast"}):  # a product and a sum in one instruction
        return CppCodeCache.load(f"#include <cstdint>\n#include <type_traits>\n{source(dtype, lmax)}\n{exported}")


def run(name: str, lmax: int, out: Tensor, inputs: Sequence[Tensor | None], *numbers: int) -> Tensor:
    """Call a kernel with ``inputs`` made contiguous, ``out``, which it fills, ``numbers`` and torch's threads."""
    held = [None if x is None else x.contiguous() for x in inputs]
    pointers = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in [*held, out]]
    kernel = getattr(_library(out.dtype, lmax), name)
    kernel(*pointers, *map(ctypes.c_int64, [*numbers, torch.get_num_threads()]))
    return out


def operator(schema: str, function: Any, shape: Any) -> Any:
    """``torch.ops.equimd.NAME`` for the CPU, from ``NAME(arguments) -> Tensor``.

    Args:
        shape: of the same arguments, a new tensor like the result.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, function, "CPU")
    torch.library.register_fake(f"equimd::{name}", shape, lib=_LIBRARY)
    return getattr(torch.ops.equimd, name)
