"""A recurrent network's program with its frame, its result and the states that it carries to the next frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

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
    ((_, function),) = network.partitioned.regions
    main = network.partitioned.module["main"]
    names: dict[Any, str | list[str]] = {}  # variable of main -> name of the program's tensor, or names of several
    codes: dict[Any, Any] = {}  # parameter -> its codes
    for binding in main.body.blocks[0].bindings:
        value, var = binding.value, binding.var
        if isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.quantize":
            codes[value.args[0]] = var
        elif isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.dequantize":
            names[var] = names.get(value.args[0], "")
        elif isinstance(value, relax.Call):
            for argument, parameter in zip(value.args, function.params, strict=True):
                names[argument] = str(parameter.name)
            outputs = [slot.name for slot in region.program.outputs]
            names[var] = outputs if len(outputs) > 1 else outputs[0]
        elif isinstance(value, relax.TupleGetItem):
            made = names[value.tuple_value]
            names[var] = made[value.index]
        else:
            names[var] = names[value]
    frame, *states = (names.get(codes.get(parameter), "") for parameter in main.params)
    if not isinstance(main.body.body, relax.Tuple) or not states:
        raise UnsupportedError(
            "no state is carried from frame to frame",
            where=where,
            hint="Declare the module's states with state_shapes.",
        )
    result, *left = (str(names[field]) for field in main.body.body.fields)
    carried = (Carried(after, str(before)) for after, before in zip(left, states, strict=True))
    return ClipProgram(region.program, str(frame), result, tuple(carried))
