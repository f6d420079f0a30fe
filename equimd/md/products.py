"""Products with weights, as compiled force graphs compute them: packed beforehand, by a kernel for few rows.

One molecule is 9 or 21 rows, and a library for products of all sizes spends as much on rearranging the weights in every
call as on multiplying. Here the part of the graph that is evaluated once for a model (:mod:`equimd.md.force_graph`)
rearranges them, and the part of every step reads them in the order they are needed. The kernel, ``products.cpp``,
becomes part of the library that torch compiles the graph to.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

PANEL_BYTES = 256  # of one row of a panel: WIDTH_BYTES of products.cpp
#: C compilers that know vector types of GCC: all but Microsoft's.
POSSIBLE = sys.platform != "win32"
_LIBRARY = torch.library.Library("equimd", "FRAGMENT")


def pack(weight: Tensor) -> Tensor:
    """Weights (k, n) as panels of columns (ceil(n / w), k, w), filled up with zeros."""
    width = PANEL_BYTES // weight.element_size()
    k, n = weight.shape
    return torch.nn.functional.pad(weight, (0, -n % width)).view(k, -1, width).transpose(0, 1).contiguous()


def _product(x: Tensor, packed: Tensor, columns: int) -> Tensor:
    return x @ packed.transpose(0, 1).flatten(1)[:, :columns]


def _product_shape(x: Tensor, packed: Tensor, columns: int) -> Tensor:
    return x.new_empty(x.shape[0], columns)


_LIBRARY.define("pack(Tensor weight) -> Tensor")
_LIBRARY.impl("pack", pack, "CPU")
_LIBRARY.define("packed_product(Tensor x, Tensor packed, int columns) -> Tensor")
_LIBRARY.impl("packed_product", _product, "CPU")
torch.library.register_fake("equimd::packed_product", _product_shape, lib=_LIBRARY)

# torch calls this function of C where the graph has the operator; tensors are handles, results are made here
_DECLARATION = """AOTITorchError aoti_torch_cpu_packed_product(
    AtenTensorHandle x, AtenTensorHandle packed, int64_t columns, AtenTensorHandle* out)"""
_DEFINITION = """
{
    int64_t *sizes, *strides;
    int32_t dtype;
    void *from, *weights, *to;
    if (aoti_torch_get_sizes(x, &sizes) || aoti_torch_get_strides(x, &strides) || aoti_torch_get_dtype(x, &dtype) ||
        aoti_torch_get_data_ptr(x, &from) || aoti_torch_get_data_ptr(packed, &weights)) return 1;
    const int64_t m = sizes[0], k = sizes[1], shape[2] = {m, columns}, steps[2] = {columns, 1};
    if (strides[1] != 1 && k > 1) return 1;
    if (aoti_torch_empty_strided(2, shape, steps, dtype, aoti_torch_device_type_cpu(), 0, out) ||
        aoti_torch_get_data_ptr(*out, &to)) return 1;
    if (dtype == aoti_torch_dtype_float32())
        equimd_products::product((const float*)from, strides[0], (const float*)weights, (float*)to, m, k, columns);
    else
        equimd_products::product((const double*)from, strides[0], (const double*)weights, (double*)to, m, k, columns);
    return 0;
}
"""


def inductor_options() -> dict[str, Any]:
    """Options of torch's compiler that make the operator a call of the kernel.

    What torch takes for a declaration, it writes within ``extern "C" {extern ...;}``: the definition goes with it.
    """
    source = Path(__file__).with_name("products.cpp").read_text()
    code = f'{_DECLARATION};\nextern "C++" {{\n{source}\n}}\n{_DECLARATION} {_DEFINITION}\nextern {_DECLARATION}'
    return {"aot_inductor.custom_ops_to_c_shims": {torch.ops.equimd.packed_product.default: [code]}}


def use_packed(graph: fx.Graph, moving: set[fx.Node], given: set[fx.Node]) -> None:
    """Replace products of what changes in every step with what does not, where the weights are float32 or float64."""
    for node in [n for n in graph.nodes if n.target is torch.ops.aten.mm.default]:
        x, weight = node.args
        if x not in moving or weight not in given:
            continue
        left, right = x.meta["tensor_meta"], weight.meta["tensor_meta"]
        if left.stride[1] != 1 or right.dtype not in (torch.float32, torch.float64):
            continue
        with graph.inserting_before(node):
            packed = graph.call_function(torch.ops.equimd.pack.default, (weight,))
            product = graph.call_function(torch.ops.equimd.packed_product.default, (x, packed, right.shape[1]))
        product.meta["tensor_meta"] = node.meta["tensor_meta"]
        node.replace_all_uses_with(product)
        graph.erase_node(node)
