"""Every operator, in every spelling: found, true to torch, bit-exact down to the RTL, refused in words."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_cases import ACTIVATIONS, CASES, Between, one
from tvm import relax
from whole_networks import POOL

from codesign.compile.cuda.fusion import from_graph
from codesign.compile.cuda.layers import Other
from codesign.compile.driver import CompiledNetwork, Quantisation, Region, compile_network
from codesign.compile.graph.graph import Graph, Node
from codesign.compile.importing.model import ImportedModel, load_model
from codesign.compile.ir.evaluate import apply, run
from codesign.compile.ir.relax import from_module, to_module
from codesign.compile.ir.runnable import runnable
from codesign.compile.operators.host import no_command
from codesign.compile.operators.page import operators_page
from codesign.compile.operators.registry import COMPOSITES, OPERATORS, named, operator_of, why_unsupported
from codesign.compile.referee.integer import evaluate_region
from codesign.hw.model import reference
from codesign.hw.numerics import TABLE_FUNCTIONS, evaluate_steps
from codesign.hw.spec import BASE, TINY
from codesign.sim.run import run as simulate

WIDTH, HEIGHT = 16, 12
MACHINE = POOL["narrow"]
"""Has every unit, and little of everything else."""

SPELLINGS = [(operator, name) for operator, cases in CASES.items() for name in cases]
ON_RTL = [(operator, next(iter(cases))) for operator, cases in CASES.items()]


@cache
def model_of(operator: str, name: str) -> ImportedModel:
    return load_model(CASES[operator][name].network().eval(), width=WIDTH, height=HEIGHT, channels=3)


def image() -> torch.Tensor:
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))


@cache
def compiled(operator: str, name: str) -> CompiledNetwork:
    quantisation = Quantisation("minmax")
    return compile_network(model_of(operator, name), MACHINE, calibration=[image().numpy()], quantisation=quantisation)


def test_every_operator_has_cases() -> None:
    assert set(CASES) == {type(operator).__name__ for operator in OPERATORS}


def test_every_name_belongs_to_one_kind_of_node() -> None:
    composite = [name for one in COMPOSITES.values() for name in one.ops]
    assert len(composite) == len(set(composite))
    assert all(operator.spellings and operator.__doc__ for operator in OPERATORS)


@pytest.mark.parametrize(("operator", "name"), SPELLINGS)
def test_every_spelling_is_found_and_means_the_same(operator: str, name: str) -> None:
    case, model = CASES[operator][name], model_of(operator, name)
    graph = from_module(model.module)
    found = [node for node in graph.nodes if _is(graph, node, operator)]
    assert len(found) == case.count, [node.op for node in graph.nodes]
    with torch.no_grad():
        torch.testing.assert_close(run(graph, image()), case.network().eval()(image()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("operator", "name"), SPELLINGS)
def test_the_machine_computes_all_of_it(operator: str, name: str) -> None:
    """Golden model and referee agree on every bit; the quantised network is near the float one."""
    network = compiled(operator, name)
    hosted = {placement.operator: placement.reason for placement in network.placements if not placement.on_accelerator}
    assert not hosted or not CASES[operator][name].whole
    for region in network.regions:
        for seed in range(2):
            _judged(region, seed)
    with torch.no_grad():
        wanted = run(from_module(model_of(operator, name).module), image())
        error = run(from_module(network.quantised), image()) - wanted
    assert error.square().mean().sqrt() < 0.08 * wanted.std()


@pytest.mark.parametrize(("operator", "name"), ON_RTL)
def test_the_rtl_computes_the_same(operator: str, name: str) -> None:
    for region in compiled(operator, name).regions:
        inputs, outputs = _judged(region, 5)
        for slot, values in simulate(region.program, inputs).outputs.items():
            np.testing.assert_array_equal(values, outputs[slot])


def _judged(region: Region, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random codes in, the golden model's result out, which is the referee's too."""
    rng = np.random.default_rng(seed)
    program, part = region.program, region.part
    shapes = {slot.name: (slot.height, slot.width, slot.channels) for slot in program.inputs}
    inputs = {name: rng.integers(-128, 128, shape).astype(np.int8) for name, shape in shapes.items()}
    outputs = reference.run(program, inputs)
    given_codes = {
        codes: inputs[slot.name].transpose(2, 0, 1)[None]
        for codes, slot in zip(part.inputs, program.inputs, strict=True)
    }
    expected = evaluate_region(part.graph, given_codes, part.outputs)
    for slot, codes in zip(program.outputs, expected, strict=True):
        np.testing.assert_array_equal(outputs[slot.name].transpose(2, 0, 1)[None], codes)
    return inputs, outputs


@pytest.mark.parametrize(("operator", "name"), ON_RTL)
def test_a_machine_without_the_unit_says_so(operator: str, name: str) -> None:
    """Whatever a small machine leaves to the host it leaves with a reason, and the network is compiled all the same."""
    network = compile_network(
        model_of(operator, name), TINY, calibration=[image().numpy()], quantisation=Quantisation("minmax")
    )
    for placement in network.placements:
        assert placement.on_accelerator or placement.reason.endswith((".", ")"))
    (described,) = (one for one in OPERATORS if type(one).__name__ == operator)
    if described.machine_unit is not None:
        assert described.machine_unit.missing in {placement.reason for placement in network.placements}


def _node(graph: Graph, operator: str) -> Node:
    return next(node for node in graph.nodes if _is(graph, node, operator))


def _is(graph: Graph, node: Node, operator: str) -> bool:
    """Whether ``node`` begins a unit of ``operator``, or is its own and the machine has no command for it."""
    own = named(node.op)
    return type(own if no_command in own.rules else operator_of(graph, node)).__name__ == operator


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "operators.md"
    assert page.read_text() == operators_page(), "python -m codesign operators > docs/operators.md"


@pytest.mark.parametrize(("operator", "name"), ON_RTL)
def test_the_page_says_what_cuda_does(operator: str, name: str) -> None:
    """An operator for which it names kernels leaves nothing to TVM, and the others do."""
    (described,) = (one for one in OPERATORS if type(one).__name__ == operator)
    graph = from_graph(from_module(model_of(operator, name).module))
    left = [operation.node.op for operation in graph.operations if isinstance(operation, Other)]
    assert bool(left) == (not described.cuda)


LIMITS = [
    ("Convolution", {"strides": (2, 2)}, {"strides": (3, 3)}, "Strides must be 1 or 2"),
    ("Convolution", {"strides": (1, 1)}, {"strides": (1, 2)}, "the same in both directions"),
    ("Convolution", {"dilation": (31, 63)}, {"dilation": (32, 1)}, "63 rows and 128 columns"),
    (
        "Convolution",
        {"padding": (63, 63, 63, 63)},
        {"padding": (64, 1, 1, 1)},
        "at most 63 rows and columns of padding",
    ),
    ("PixelShuffle", {"upscale_factor": 8}, {"upscale_factor": 9}, "a factor of at most 8"),
    ("PixelUnshuffle", {"downscale_factor": 8}, {"downscale_factor": 3}, "2, 4 or 8"),
    ("Copies", {"axes": (1,)}, {"axes": (2,)}, "Only channels"),
    ("AveragePool", {"pool_size": (62, 127)}, {"pool_size": (63, 2)}, "62 rows and 127 columns"),
    ("AveragePool", {"strides": (1, 1)}, {"strides": (3, 3)}, "Strides must be 1 or 2"),
    ("Resize", {"method": "linear"}, {"method": "cubic"}, "bilinear resize"),
    ("Correlation", {"reach": 15}, {"reach": 16}, "15 pixels"),
    ("Window", {"radius": 4}, {"radius": 5}, "reach 4 pixels"),
    ("Window", {"level": 7}, {"level": 8}, "levels 0 to 7"),
    ("Window", {"map": (255, 257)}, {"map": (256, 256)}, "less than 65536 pixels"),
]
"""Attributes at a limit and beyond it, and the words that say so."""


@pytest.mark.parametrize(("operator", "at", "beyond", "words"), LIMITS)
def test_attributes_beyond_the_machine_are_refused_in_words(
    operator: str, at: dict[str, object], beyond: dict[str, object], words: str
) -> None:
    graph = from_module(model_of(operator, next(iter(CASES[operator]))).module)
    node = _node(graph, operator)
    for attributes, refused in ((at, False), (beyond, True)):
        changed = dataclasses.replace(node, attributes={**node.attributes, **attributes})
        reason = why_unsupported(graph, changed, MACHINE)
        assert (reason is not None) == refused, reason
        assert not refused or words in str(reason)


def test_frames_and_ranks_beyond_the_machine_are_refused_in_words() -> None:
    for operator, cases in CASES.items():
        graph = from_module(model_of(operator, next(iter(cases))).module)
        node = _node(graph, operator)
        assert "[1, C, H, W]" in (why_unsupported(graph, dataclasses.replace(node, shape=(4, 4)), BASE) or "")


@pytest.mark.parametrize("operator", [type(one).__name__ for one in COMPOSITES.values()])
def test_the_body_in_relax_means_the_same(operator: str) -> None:
    """The one operator, built by TVM for the CPU from its composite function, against its definition in torch."""
    for name in CASES[operator]:
        graph = from_module(model_of(operator, name).module)
        node = _node(graph, operator)
        generator = torch.Generator().manual_seed(5)
        operands = [torch.rand(graph.shape_of(one), generator=generator) * 4 - 2 for one in node.inputs]
        # A graph has one input; operands after the first are constants of it, and so of the built module.
        names = [f"operand{index}" for index in range(len(operands))]
        constants = {one: value.numpy() for one, value in zip(names[1:], operands[1:], strict=True)}
        shape = tuple(operands[0].shape)
        single = Graph(names[0], shape, (dataclasses.replace(node, inputs=tuple(names)),), constants, node.name)
        built = relax.build(runnable(to_module(single)), "llvm")
        found = relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(operands[0].numpy())).numpy()
        np.testing.assert_allclose(found, apply(node, operands).numpy(), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("operator", [type(one).__name__ for one in COMPOSITES.values()])
def test_relax_is_read_back_without_loss(operator: str) -> None:
    for name in CASES[operator]:
        graph = from_module(model_of(operator, name).module)
        again = from_module(to_module(graph))
        assert [(n.name, n.op, n.shape) for n in again.nodes] == [(n.name, n.op, n.shape) for n in graph.nodes]
        kept = [
            (n.attributes, m.attributes) for n, m in zip(graph.nodes, again.nodes, strict=True) if n.op in COMPOSITES
        ]
        assert kept
        assert all(before == after for before, after in kept)


_ARITY = {
    **dict.fromkeys(("add", "subtract", "multiply", "maximum", "minimum", "divide"), 2),
    **dict.fromkeys(("greater", "less_equal"), 2),
    "where": 3,
}
_ONE = ("tanh", "sigmoid", "exp", "abs", "square", "sin", "cos", "erf", "negative", "relu", "softplus", "silu", "gelu")


@st.composite
def drawn_steps(draw: st.DrawFn) -> tuple[str, ...]:
    """A function of at most eight steps, of bounded numbers."""
    steps: list[str] = []
    for count in range(draw(st.integers(1, 8))):
        name = draw(st.sampled_from((*_ONE, *_ARITY, "clip", "leakyrelu")))
        earlier = st.sampled_from(("x", *map(str, range(count))))
        number = st.floats(-2.0, 2.0).map(repr)
        match name:
            case "clip":
                low = draw(st.floats(-2.0, 1.0))
                operands = [draw(earlier), repr(low), repr(low + draw(st.floats(0.0, 3.0)))]
            case "leakyrelu":
                operands = [draw(earlier), repr(draw(st.floats(-0.5, 1.0)))]
            case "where":
                operands = [draw(earlier), draw(earlier | number), draw(earlier | number)]
            case _ if name in _ARITY:
                operands = [draw(earlier), draw(earlier | number)]
            case _:
                operands = [draw(earlier)]
        steps.append(" ".join((name, *operands)))
    return tuple(steps)


@given(drawn_steps())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_drawn_tables_mean_the_same_everywhere(steps: tuple[str, ...]) -> None:
    """In torch, in Relax's bodies and in float64 as the machine's tables are computed."""
    x = torch.linspace(-3.0, 3.0, 24).reshape(1, 1, 4, 6)
    node = Node("table", "table", ("x",), {"steps": steps}, (1, 1, 4, 6))
    graph = Graph("x", (1, 1, 4, 6), (node,), {}, "table")
    wanted = np.array([evaluate_steps(steps, float(value)) for value in x.flatten()])
    found = apply(node, [x.double()]).numpy().reshape(-1)
    sane = np.isfinite(wanted) & (np.abs(wanted) < 1e4)
    np.testing.assert_allclose(found[sane], wanted[sane], rtol=1e-6, atol=1e-6)
    again = from_module(to_module(graph))
    assert again.nodes[0].attributes["steps"] == steps


@given(drawn_steps(), drawn_steps())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_table_of_a_table_is_one(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    """As an imported model has them, where its roundings between the two are gone."""
    shape = (1, 1, 4, 6)
    inner = Node("inner", "table", ("x",), {"steps": first}, shape)
    outer = Node("outer", "table", ("inner",), {"steps": second}, shape)
    (merged,) = COMPOSITES["table"].recognise(Graph("x", shape, (inner, outer), {}, "outer")).nodes
    for x in np.linspace(-3.0, 3.0, 24):
        wanted = evaluate_steps(second, evaluate_steps(first, float(x)))
        np.testing.assert_equal(evaluate_steps(merged.attributes["steps"], float(x)), wanted)


@given(st.lists(st.sampled_from(sorted(ACTIVATIONS)), min_size=2, max_size=3))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_composed_activations_are_one_table(names: list[str]) -> None:
    def composed(x: torch.Tensor) -> torch.Tensor:
        for name in names:
            x = ACTIVATIONS[name](x)
        return x

    network = Between(lambda x, _: composed(x)).eval()
    graph = from_module(load_model(network, width=WIDTH, height=HEIGHT, channels=3).module)
    assert sum(node.op == "table" for node in graph.nodes) == 1
    assert {node.op for node in graph.nodes} <= {"nn.conv2d", "add", "table", "nn.relu", "clip"}
    with torch.no_grad():
        torch.testing.assert_close(run(graph, image()), network(image()), rtol=1e-3, atol=1e-4)


def test_a_result_within_a_table_can_be_read_besides() -> None:
    """Its readers get a table of their own."""

    def gated(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        bent = torch.tanh(x)
        return torch.cat((bent, x * (bent + 1.0)), 1)

    network = Between(gated, 12).eval()
    graph = from_module(load_model(network, width=WIDTH, height=HEIGHT, channels=3).module)
    assert sorted(node.op for node in graph.nodes if node.op not in ("nn.conv2d", "add")) == [
        "concat",
        "table",
        "table",
    ]
    with torch.no_grad():
        torch.testing.assert_close(run(graph, image()), network(image()), rtol=1e-3, atol=1e-4)


def test_a_table_reads_what_is_stored_anyway() -> None:
    """Where others read a result, the next table is of it, not of the tensor before."""

    def stored(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        bent = torch.tanh(x)
        return torch.cat((bent, torch.sin(bent)), 1)

    network = Between(stored, 12).eval()
    graph = from_module(load_model(network, width=WIDTH, height=HEIGHT, channels=3).module)
    first, second = (node for node in graph.nodes if node.op == "table")
    assert second.inputs == (first.name,)
    assert len(second.attributes["steps"]) == 1


def test_every_function_of_tables_is_drawn_or_named() -> None:
    spelled = {"power", "sqrt", "rsqrt", "log", "sign", "selu", "gelu_tanh", "greater_equal", "less"}
    assert set(TABLE_FUNCTIONS) == {*_ONE, *_ARITY, "clip", "leakyrelu", *spelled}


def test_an_import_has_no_operator_of_its_own() -> None:
    """``one`` makes networks whose second branch nobody reads: it must not be left in the graph."""
    graph = from_module(load_model(one(torch.sigmoid)().eval(), width=WIDTH, height=HEIGHT, channels=3).module)
    assert sum(node.op == "nn.conv2d" for node in graph.nodes) == 2
