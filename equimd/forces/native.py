"""Operators with kernels of their own in compiled force graphs: calls of functions within the graph's library.

The kernels are those of :mod:`equimd.forces.products` and :mod:`equimd.model.painn.pairs`; ``native.cpp`` makes them
functions as torch's ahead-of-time compiler calls them, so that no Python runs in a step.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from equimd.forces import products
from equimd.model.painn import pairs

#: C compilers that know vector types of GCC: all but Microsoft's.
POSSIBLE = sys.platform != "win32"
SOURCES = [Path(__file__), Path(__file__).with_suffix(".cpp"), products.KERNELS]


def inductor_options(dtype: torch.dtype, lmax: int) -> dict[str, Any]:
    """Options of torch's compiler that make the operators calls of the kernels; none where that is not possible.

    Args:
        dtype, lmax: of the model.
    """
    if not POSSIBLE:
        return {}
    kernels = products.KERNELS.read_text() + pairs.kernel_source(dtype, lmax)
    functions = Path(__file__).with_suffix(".cpp").read_text()
    # what torch takes for a declaration, it writes within extern "C" {extern ...;}: the definitions go with it
    nothing = "void equimd_native(void)"
    code = f'{nothing};\nextern "C++" {{\n{kernels}\n}}\n{functions}\nextern {nothing}'
    operators = [products.packed_product, pairs.gather, pairs.sender, pairs.filter_, pairs.harmonic]
    shims: dict[Any, list[str]] = {operator.default: [] for operator in operators}
    shims[products.packed_product.default] = [code]
    return {"aot_inductor.custom_ops_to_c_shims": shims}
