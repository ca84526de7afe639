"""A recurrent network's program with its frame, its result and the states that it carries to the next frame."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.compile.driver import CompiledNetwork
from codesign.hw.errors import UnsupportedError
from codesign.hw.model.clip import Carried, Stream
from codesign.hw.program.program import Program


@dataclass(frozen=True)
class ClipProgram:
    """A program whose states stay in the machine's memory, with the names of its tensors."""

    program: Program
    frame: str
    result: str
    carried: tuple[Carried, ...]

    def stream(self) -> Stream:
        return Stream.of(self.program, self.carried)


def clip_program(network: CompiledNetwork) -> ClipProgram:
    """The program of a recurrent network.

    Raises :class:`UnsupportedError` for a network with operators on the host, and for one without states."""
    where = network.name
    hosted = [placement.name for placement in network.placements if not placement.on_accelerator]
    if hosted or len(network.regions) != 1:
        raise UnsupportedError(
            "the host runs a part of every frame, so the states would have to leave the machine",
            where=hosted[0] if hosted else where,
            hint="See `compile` for the operators on the host; a network without any keeps its states in the machine.",
        )
    (region,) = network.regions
    graph, part, program = region.part.graph, region.part, region.program
    slots = dict(zip(part.inputs, program.inputs, strict=True)) | dict(zip(part.outputs, program.outputs, strict=True))
    named = {codes: slot.name for codes, slot in slots.items()}
    codes = {node.inputs[0]: named[node.name] for node in graph.nodes if node.op == "quantize" and node.name in named}
    opened = {node.name: named[node.inputs[0]] for node in graph.nodes if node.inputs and node.inputs[0] in named}
    if not graph.carried:
        raise UnsupportedError(
            "no state is carried from frame to frame",
            where=where,
            hint="Declare the module's states with state_shapes.",
        )
    carried = tuple(Carried(opened[after], codes[state]) for after, state in graph.carried)
    return ClipProgram(program, codes[graph.input], opened[graph.result], carried)
