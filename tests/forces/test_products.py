"""Products with packed weights: the kernel, and where graphs use it."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import pytest
import torch

from equimd.forces import native, products
from equimd.forces.force_graph import force_function, graph_inputs, trace
from equimd.machine import has_compiler

from .compiled import LIMITS, decision, field
from .test_forcefield import potential, replicas

SCALARS = {torch.float32: "float", torch.float64: "double"}


#: in which precision is computed, and in which the weights are stored
KINDS = [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.float64, torch.float32)]


@cache
def kernel(dtype: torch.dtype, stored: torch.dtype) -> Any:
    from torch._inductor.codecache import CppCodeCache

    source, scalar = products.KERNELS.read_text(), SCALARS[dtype]
    call = f"""extern "C" void run(const {scalar}* x, int64_t stride, const {SCALARS[stored]}* packed, {scalar}* out,
                                   int64_t m, int64_t k, int64_t n)
               {{ equimd_products::product(x, stride, packed, out, m, k, n); }}"""
    function = CppCodeCache.load(f"#include <cstdint>\n#include <vector>\n{source}\n{call}").run
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3
    return function


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
@pytest.mark.parametrize("triangular", [False, True])
@pytest.mark.parametrize(("dtype", "stored"), KINDS)
def test_the_kernel_multiplies(dtype: torch.dtype, stored: torch.dtype, triangular: bool) -> None:
    """Rows and columns that fill registers and panels and that do not; rows of a wider matrix; nothing else written."""
    generator = torch.Generator().manual_seed(0)
    for m in (1, 2, 5, 6, 7, 9, 13, 21):
        for k, n in ((1, 1), (3, 31), (21, 128), (5, 65), (128, 20), (17, 200), (100, 100)):
            wide = torch.randn(m, k + 3, generator=generator, dtype=dtype)
            wide[3:5] = 0.0  # rows that are passed over
            x, weight = wide[:, :k], torch.randn(k, n, generator=generator, dtype=stored)
            weight = weight.tril() if triangular else weight
            packed, out = products.pack(weight), torch.full((m + 1, n), torch.nan, dtype=dtype)
            kernel(dtype, stored)(x.data_ptr(), wide.stride(0), packed.data_ptr(), out.data_ptr(), m, k, n)
            eps = torch.finfo(dtype).eps  # k terms of about one, each rounded, and added in another order
            torch.testing.assert_close(out[:m], x @ weight.to(dtype), rtol=4 * eps, atol=min(2 * k * eps, 1e-5))
            assert out[m].isnan().all()
            assert len(packed) == products.packed_size(k, n, stored.itemsize)
            both = torch.cat([torch.ones(64, dtype=stored), packed])
            torch.testing.assert_close(torch.ops.equimd.packed_product(x, both, 64, n), x @ weight.to(dtype))


def test_panels_say_how_many_rows_of_zeros_they_begin_with() -> None:
    weight = torch.ones(100, 100).tril()
    heads = products.pack(weight).view(-1, 101, 64)[:, 0]
    assert heads[:, 0].tolist() == [0.0, 64.0]
    assert not heads[:, 1:].any()


@pytest.mark.skipif(not native.POSSIBLE, reason="Microsoft's compiler has no vector types")
@pytest.mark.parametrize("dtype", SCALARS)
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_graphs_multiply_packed_weights_alone(forces: str, dtype: torch.dtype) -> None:
    """What a step multiplies with weights is packed, and packing is left to what is done once."""
    model = potential(forces=forces).to(dtype)
    batch = field(model=model, compile="off")._batch(2)
    inputs = graph_inputs(model, batch, decision(), LIMITS)
    graph = trace(force_function(model, batch, decision()), replicas(2), inputs)
    nodes = list(graph.each.graph.nodes)
    assert sum(node.target is torch.ops.equimd.packed_product.default for node in nodes) > 10
    assert not any(node.target is torch.ops.equimd.pack.default for node in nodes)
    left = [node for node in nodes if node.target is torch.ops.aten.mm.default]
    assert not any(source.op == "placeholder" for node in left for source in node.all_input_nodes)
    assert "equimd.pack" in graph.once
