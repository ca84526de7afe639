"""All-pairs correlation, as the machine computes it: products of every pixel of one tensor with every pixel of another.

``pairs`` of ``first [1, C, H, W]`` and ``second [1, C, h, w]`` is ``[1, h w, H, W]``, times ``factor``: a 1x1
convolution of the first whose weights are the second's pixels. Relax has it as::

    product = matmul(permute_dims(reshape(second, [C, h w])), reshape(first, [C, H W]))
    multiply(reshape(product, [1, h w, H, W]), const [])

:func:`read_pairs` finds that form. :func:`recognise_pairs` brings RAFT's there, where the first tensor's pixels are a
batch of maps, which average pools make smaller: the maps follow from ``pairs`` by a transposition, and those of a pool
are the pooled tensor's, as products are linear.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.compile.ir.graph import Editor, Graph, Node


@dataclass(frozen=True)
class _Maps:
    """``[H W, 1, h, w]`` (or flat, ``[H W, h w]``): the second tensor's pixels times each of the first's."""

    first: str
    second: str
    factor: float


def read_pairs(graph: Graph) -> Graph:
    """``graph`` with ``pairs`` nodes, attribute ``factor``, for Relax's spelling of them."""
    editor = Editor(graph)
    for node in graph.nodes:
        found = _spelt(graph, node) if node.op == "multiply" else None
        if found is None:
            editor.keep(node)
        else:
            attributes = {"factor": found.factor}
            editor.keep(node, op="pairs", inputs=(found.first, found.second), attributes=attributes)
    return editor.graph()


def recognise_pairs(graph: Graph) -> Graph:
    """``graph`` with ``pairs`` nodes for products of two frames' pixels."""
    editor = Editor(graph)
    known: dict[str, _Maps] = {}
    for node in graph.nodes:
        maps = _maps(editor, node, known)
        if maps is None:
            editor.keep(node)
            continue
        known[node.name] = maps
        _, _, height, width = graph.shape_of(maps.first)
        pixels = node.shape[-2] * node.shape[-1] if len(node.shape) == 4 else node.shape[1]
        inputs, attributes = (maps.first, maps.second), {"factor": maps.factor}
        made = editor.add(f"{node.name}.pairs", "pairs", inputs, attributes, shape=(1, pixels, height, width))
        flat = (pixels, height * width)
        made = editor.add(f"{node.name}.flat", "reshape", (made,), {"shape": flat}, shape=flat)
        turned = f"{node.name}.turned"
        made = editor.add(turned, "permute_dims", (made,), {"axes": (1, 0)}, shape=flat[::-1])
        editor.keep(node, op="reshape", inputs=(made,), attributes={"shape": node.shape})
    return editor.graph()


def _spelt(graph: Graph, node: Node) -> _Maps | None:
    factor = graph.scalar(node.inputs[1])
    spread = graph.by_name.get(node.inputs[0])
    if factor is None or spread is None or spread.op != "reshape" or len(spread.shape) != 4:
        return None
    product = graph.by_name.get(spread.inputs[0])
    found = None if product is None else _operands(graph, product)
    if found is None:
        return None
    second, first = found  # the pixels of the second come first
    expected = (1, product.shape[0], *graph.shape_of(first)[2:]) if product is not None else ()
    return _Maps(first, second, factor) if spread.shape == expected else None


def _maps(editor: Editor, node: Node, known: dict[str, _Maps]) -> _Maps | None:
    """What ``node`` is, if it is maps of all pairs; a pool of the second tensor is appended to ``editor``."""
    graph = editor.source
    maps = known.get(node.inputs[0]) if node.inputs else None
    match node.op:
        case "matmul":
            found = _operands(graph, node)
            return None if found is None else _Maps(*found, 1.0)
        case "multiply" if maps is not None and (factor := graph.scalar(node.inputs[1])) is not None:
            return _Maps(maps.first, maps.second, maps.factor * factor)
        case "reshape" if maps is not None:
            rows, columns = graph.shape_of(node.inputs[0])[0], graph.shape_of(maps.second)[2:]
            return maps if node.shape == (rows, 1, *columns) else None
        case "nn.avg_pool2d" if maps is not None and len(node.shape) == 4:
            attributes = {key: value for key, value in node.attributes.items() if key != "call"}
            shape = (1, graph.shape_of(maps.first)[1], *node.shape[2:])
            pooled = editor.add(f"{node.name}.second", "nn.avg_pool2d", (maps.second,), attributes, shape=shape)
            return _Maps(maps.first, pooled, maps.factor)
    return None


def _operands(graph: Graph, node: Node) -> tuple[str, str] | None:
    """The frames whose pixels ``node`` multiplies: those that are its rows, those that are its columns."""
    if node.op != "matmul" or len(node.shape) != 2:
        return None
    turned, columns = (graph.by_name.get(operand) for operand in node.inputs)
    if turned is None or turned.op != "permute_dims" or tuple(turned.attributes["axes"] or (1, 0)) != (1, 0):
        return None
    rows = graph.by_name.get(turned.inputs[0])
    if rows is None or columns is None or {rows.op, columns.op} != {"reshape"}:
        return None
    for flat in (rows, columns):
        frame = graph.shape_of(flat.inputs[0])
        if len(frame) != 4 or frame[0] != 1 or flat.shape != (frame[1], frame[2] * frame[3]):
            return None
    return rows.inputs[0], columns.inputs[0]
