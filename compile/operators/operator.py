"""One operator of networks, as every stage of the compiler sees it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from numpy.typing import NDArray
from tvm import relax

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.unit import RoundedUnit, Unit
from codesign.hw.spec import AccelSpec
from codesign.hw.spec import Unit as MachineUnit
from codesign.kernels.frame_kernel import FrameKernel

if TYPE_CHECKING:
    from codesign.compile.scanline.lowering import Lowering
    from codesign.compile.scanline.tensors import Tensor

Bind = Callable[[str, Any], Any]
"""Binds a Relax expression to a variable of the given name, which it returns."""

Rule = Callable[[Graph, Node], bool]
"""A condition on a node. Its docstring is the sentence that the user reads when it does not hold."""


def sentence(rule: Rule) -> str:
    return (rule.__doc__ or "").strip()


class Operator:
    """Everything that the stages ask of an operator.

    A subclass states what is its own; the defaults describe a float operator of the host. The class's docstring says
    what the operator computes, in one sentence for the documentation.
    """

    # In a graph

    ops: ClassVar[tuple[str, ...]] = ()
    """Names of its nodes."""

    rank: ClassVar[int] = 0
    """Operators of lower rank are recognised before others, those of one rank in order of their files' names."""

    spellings: ClassVar[tuple[str, ...]] = ()
    """The operators that exporters write for it, for the documentation."""

    @property
    def title(self) -> str:
        """Its name in words."""
        return re.sub(r"(?<!^)(?=[A-Z])", " ", type(self).__name__).lower()

    def recognise(self, graph: Graph) -> Graph:
        """``graph`` with this operator's nodes in place of the exporters' spellings. It keeps the function."""
        return graph

    def begins(self, graph: Graph, node: Node) -> bool:
        """Whether ``node`` begins a unit of this operator that the machine may be able to compute."""
        return node.op in self.ops

    # In quantisation

    fuses: ClassVar[tuple[str, ...]] = ()
    """Activations that join a unit of this operator."""

    takes_factor: ClassVar[bool] = False
    """Multiplication by a number joins a unit of this operator."""

    weighs: ClassVar[bool] = False
    """Its second operand is constant weights, which get codes of their own."""

    keeps_scale: ClassVar[bool] = False
    """Its result has the scale, zero point and bits of its operand."""

    joins_scales: ClassVar[bool] = False
    """Its operands and its result share one scale and zero point."""

    adds: ClassVar[bool] = False
    """It adds operands of 16 bits as whole numbers, so their scales are powers of two."""

    centred: ClassVar[bool] = False
    """Zero points of its operands are 0."""

    at_a_flow: ClassVar[bool] = False
    """Its second operand is a flow of 16 bits."""

    carries_flows: ClassVar[bool] = False
    """Its result is a flow if its operand is one."""

    def stores_16_bits(self, unit: Unit, graph: Graph | None = None) -> bool:
        """Whether ``unit`` can store 16 bits, its operands permitting; with ``graph``, whether they do by shape."""
        return False

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        """Whether ``unit`` reads all bits of its operand ``which``; a convolution does if its sums fit."""
        return False

    def widens_operands(self, unit: Unit) -> bool:
        """Whether a result of 16 bits needs operands of 16."""
        return self.adds

    # On the machine

    rules: ClassVar[tuple[Rule, ...]] = ()

    machine_unit: ClassVar[MachineUnit | None] = None
    """The optional unit of the machine that computes it."""

    bits: ClassVar[str] = "8"
    """Bits of operands and result that the machine computes it in, for the documentation."""

    cuda: ClassVar[str] = ""
    """How this project's CUDA kernels compute it in FP16, for the documentation; empty: TVM schedules it."""

    cuda_reads: ClassVar[int | None] = None
    """Operands that its kernels read, the first ones; the others they hold. None: all."""

    cuda_fuses: ClassVar[tuple[str, ...]] = ()
    """Activations that its kernels take after it."""

    cuda_ops: ClassVar[tuple[str, ...]] = ()
    """Names of the nodes that :meth:`for_cuda` makes; no other stage sees them."""

    def for_cuda(self, graph: Graph) -> Graph:
        """``graph`` with nodes of :attr:`cuda_ops` where one kernel computes several operators at once."""
        return graph

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        """CUDA kernels that compute ``node``, and ``activation`` of it, in FP16; none where there is none by itself.

        ``node`` is a frame ``[1, C, H, W]`` in float.

        Of two kernels the first makes sums over the frame, which the second reads after the operands.
        """
        return ()

    def unsupported(self, graph: Graph, node: Node, spec: AccelSpec) -> str | None:
        """Why a machine of ``spec`` cannot run ``node``, in a sentence for the user; None if it can."""
        if self.machine_unit is not None and self.machine_unit not in spec.units:
            return self.machine_unit.missing
        return next((sentence(rule) for rule in self.rules if not rule(graph, node)), None)

    def bits_fit(self, unit: RoundedUnit) -> bool:
        """Whether the machine computes this operator in the bits and zero points that ``unit`` has."""
        return unit.narrow and not (self.centred and any(operand.zero_point for operand in unit.operands))

    def refuses(self, unit: RoundedUnit) -> str | None:
        """Why the machine cannot compute ``unit`` with the formats that it has, in a sentence; None if it can."""
        fits = self.bits_fit(unit)
        return (
            None if fits else "The machine does not compute it with operands or results of these bits and zero points."
        )

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        """Append the layers that compute ``unit`` into ``target``. Only units that are supported are lowered."""
        raise NotImplementedError

    def macs(self, graph: Graph, node: Node) -> int:
        """Multiply-accumulates, by the project's definition."""
        return 0


class Composite(Operator):
    """An operator that Relax spells as several: there it is one call, of a composite function.

    A node's attributes are numbers, strings, and tuples of them: they become typed attributes of the function.
    """

    size_free: ClassVar[bool] = False
    """Whether its attributes hold for frames of every size."""

    @property
    def op(self) -> str:
        return self.ops[0]

    def begins(self, graph: Graph, node: Node) -> bool:
        return node.op in self.ops and all(map(graph.is_activation, node.inputs))

    def evaluate(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        """The result in float; differentiable where torch is."""
        raise NotImplementedError

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        """The same in plain Relax operators, bound under names that begin with the node's.

        Returns the result's variable, which has the node's name.
        """
        raise NotImplementedError


def constant(value: NDArray[Any], node: Node) -> Any:
    """``value`` as a Relax constant, in the type that ``node`` computes in."""
    return relax.const(value.astype(node.dtype), node.dtype)
