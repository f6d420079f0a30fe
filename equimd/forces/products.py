"""Products with weights, as compiled force graphs compute them: packed beforehand, by a kernel for few rows.

One molecule is 9 or 21 rows, and a library for products of all sizes spends as much on rearranging the weights in every
call as on multiplying. Here the part of the graph that is evaluated once for a model (:mod:`equimd.forces.force_graph`)
rearranges them, and the part of every step reads them in the order they are needed, by the kernel of ``products.cpp``
(:mod:`equimd.forces.native`).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, fx

PANEL_BYTES = 256  # of one row of a panel: WIDTH_BYTES of products.cpp
KERNELS = Path(__file__).with_suffix(".cpp")
_LIBRARY = torch.library.Library("equimd", "FRAGMENT")


def pack(weight: Tensor) -> Tensor:
    """Weights (k, n) as panels of columns (ceil(n / w), 1 + k, w), filled up with zeros, flat.

    A panel begins with the number of rows of zeros before its first other row, which a product passes over: half of
    them all where the weights are triangular.
    """
    width = PANEL_BYTES // weight.element_size()
    k, n = weight.shape
    panels = torch.nn.functional.pad(weight, (0, -n % width)).view(k, -1, width).transpose(0, 1)
    zeros = (panels != 0).any(2).to(weight.dtype).argmax(1)
    head = torch.nn.functional.pad(zeros.to(weight.dtype)[:, None, None], (0, width - 1))
    return torch.cat([head, panels], 1).flatten()


def packed_size(k: int, n: int, itemsize: int) -> int:
    """Elements of a weight (k, n) that is packed."""
    width = PANEL_BYTES // itemsize
    return -(-n // width) * width * (1 + k)


def _product(x: Tensor, packed: Tensor, offset: int, columns: int) -> Tensor:
    k, width = x.shape[1], PANEL_BYTES // packed.element_size()
    mine = packed[offset : offset + packed_size(k, columns, packed.element_size())]
    return x @ mine.view(-1, 1 + k, width)[:, 1:].transpose(0, 1).flatten(1)[:, :columns].to(x.dtype)


def _product_shape(x: Tensor, packed: Tensor, offset: int, columns: int) -> Tensor:
    return x.new_empty(x.shape[0], columns)


_LIBRARY.define("pack(Tensor weight) -> Tensor")
_LIBRARY.impl("pack", pack, "CPU")
_LIBRARY.define("packed_product(Tensor x, Tensor packed, int offset, int columns) -> Tensor")
_LIBRARY.impl("packed_product", _product, "CPU")
torch.library.register_fake("equimd::packed_product", _product_shape, lib=_LIBRARY)

packed_product = torch.ops.equimd.packed_product


def use_packed(graph: fx.Graph, moving: set[fx.Node], given: set[fx.Node]) -> None:
    """Replace products of what changes in every step with weights that do not.

    The packed weights of a precision are one tensor: handing over many takes its time, too. A graph in float32 has
    products in float64 as well, of its features with the factors of their posterior. Features carry the rounding to
    float32; the factors get it too, which halves what a step has to read, and the sums stay in float64.
    """
    nodes = list(graph.nodes)
    first = next(node for node in nodes if node in moving and node.op != "placeholder")
    for node in nodes[nodes.index(first) :]:
        if node not in moving and node.op != "output":
            first.prepend(node)  # so that all weights are there before the first product
    storage = torch.float64
    for dtype in (torch.float32, torch.float64):
        found = [n for n in graph.nodes if n.target is torch.ops.aten.mm.default and _packable(n, moving, given, dtype)]
        if found:
            storage = min(storage, dtype, key=lambda d: d.itemsize)
            with graph.inserting_before(first):
                stored = [graph.call_function(torch.ops.aten.to.dtype, (n.args[1], storage)) for n in found]
                packs = [graph.call_function(torch.ops.equimd.pack.default, (weight,)) for weight in stored]
                packed = graph.call_function(torch.ops.aten.cat.default, (packs,))
            _replace(graph, found, packed, storage.itemsize)


def _packable(node: fx.Node, moving: set[fx.Node], given: set[fx.Node], dtype: torch.dtype) -> bool:
    x, weight = cast("tuple[fx.Node, fx.Node]", node.args)
    dense = x.meta["tensor_meta"].stride[1] == 1
    return x in moving and weight in given and dense and node.meta["tensor_meta"].dtype == dtype


def _replace(graph: fx.Graph, found: list[fx.Node], packed: fx.Node, itemsize: int) -> None:
    offset = 0
    for node in found:
        x, weight = cast("tuple[fx.Node, fx.Node]", node.args)
        k, n = weight.meta["tensor_meta"].shape
        with graph.inserting_before(node):
            product = graph.call_function(packed_product.default, (x, packed, offset, n))
        product.meta["tensor_meta"] = node.meta["tensor_meta"]
        node.replace_all_uses_with(product)
        graph.erase_node(node)
        offset += packed_size(k, n, itemsize)
