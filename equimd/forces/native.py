"""Operators with kernels of their own in compiled force graphs: calls of functions within the graph's library.

The kernels are those of :mod:`equimd.forces.products`, which ``native.cpp`` makes a function as torch's ahead-of-time
compiler calls it, and those that a model brings, so that no Python runs in a step.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from equimd.forces import products
from equimd.model.interface import GraphKernels

#: C compilers that know vector types of GCC: all but Microsoft's.
POSSIBLE = sys.platform != "win32"
SOURCES = [Path(__file__), Path(__file__).with_suffix(".cpp"), products.KERNELS]


def inductor_options(more: GraphKernels | None) -> dict[str, Any]:
    """Options of torch's compiler that make the operators calls of the kernels; none where that is not possible.

    Args:
        more: the model's own.
    """
    if not POSSIBLE:
        return {}
    kernels, shims = products.KERNELS.read_text(), Path(__file__).with_suffix(".cpp").read_text()
    operators = [products.packed_product]
    if more is not None:
        operators, kernels, shims = operators + more.operators, kernels + more.kernels, shims + more.shims
    # what torch takes for a declaration, it writes within extern "C" {extern ...;}: the definitions go with it
    nothing = "void equimd_native(void)"
    code = f'{nothing};\nextern "C++" {{\n{kernels}\n}}\n{shims}\nextern {nothing}'
    declared: dict[Any, list[str]] = {operator.default: [] for operator in operators}
    declared[products.packed_product.default] = [code]
    return {"aot_inductor.custom_ops_to_c_shims": declared}
