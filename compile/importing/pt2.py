"""Reads a ``.pt2`` archive as data: nothing in it is executed, and no text of it reaches torch's code generation.

``torch.export.load`` trusts its file: it unpickles example inputs and odd weights, loads compiled libraries, hands
symbolic expressions to an evaluator, and writes the names of tensors, arguments, parameters and guards into the source
of a Python function. So torch never sees the archive. Its graph is parsed here, its weights become tensors, and
:class:`codesign.compile.importing.pt2_replay.Replay` runs the operators one by one.

What a file can cost is bounded before it is read: members by their size, weights by the memory that is free, size
arithmetic by :mod:`codesign.compile.importing.pt2_sizes`.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codesign.compile.importing import pt2_sizes
from codesign.compile.importing.limits import COPIES, MAX_RATIO, MAX_WEIGHT_BYTES, free_memory
from codesign.compile.importing.pt2_replay import DTYPES, Replay, replayable
from codesign.compile.importing.pt2_sizes import SizeError
from codesign.hw.errors import CodesignError, InputError, UnsupportedError

SCHEMA = 8
"""Major version of torch's schema that is read."""

MAX_MEMBERS = 65536
MAX_GRAPH_BYTES = 32 * 2**20
MAX_NODES = 32768
MAX_GUARDS = 1024

_PROGRAM = "models/model.json"
_LISTINGS = tuple(f"data/{folder}/model_{folder}_config.json" for folder in ("weights", "constants"))


@dataclass(frozen=True)
class SavedProgram:
    """The network of an archive, and which images it takes.

    ``extents``: per dimension of the image a number, the name of a symbol, or an expression of one; ``ranges``: least
    and greatest value of a symbol, None where open; ``guards``: conditions on the extents, in Python's spelling.
    """

    module: Replay
    extents: tuple[int | str, ...]
    ranges: Mapping[str, tuple[int | None, int | None]]
    guards: tuple[str, ...]
    where: str

    @property
    def fixed(self) -> tuple[int | None, ...]:
        """Extents of the image, None where any of several will do."""
        return tuple(extent if isinstance(extent, int) else None for extent in self.extents)

    def check_extents(self, extents: Sequence[int]) -> None:
        """Raise :class:`InputError` unless the program was exported for images of these extents (N, C, H, W)."""
        try:
            symbols = self._solved(extents)
            for symbol, (least, greatest) in self.ranges.items():
                value = symbols.get(symbol)
                # A least value of 2 is torch's own assumption, on which its programs do not depend.
                if value is not None and ((least or 0) > max(value, 2) or (greatest is not None and value > greatest)):
                    raise SizeError(f"{value} is outside {least}..{'' if greatest is None else greatest}")
            for guard in self.guards:
                if not pt2_sizes.evaluate(guard, symbols, extents):
                    raise SizeError(f"the program demands {guard[:120]}")
        except SizeError as error:
            shape = "x".join(map(str, extents))
            raise InputError(
                f"the program was not exported for images of {shape} ({error})",
                where=self.where,
                hint="Ask for a size that it allows, or export it again with other dynamic sizes.",
            ) from error

    def _solved(self, extents: Sequence[int]) -> dict[str, int]:
        symbols: dict[str, int] = {}
        pairs = list(zip(self.extents, extents, strict=True))
        for declared, actual in pairs:
            name = pt2_sizes.symbol_of(declared) if isinstance(declared, str) else None
            if name is not None and symbols.setdefault(name, actual) != actual:
                raise SizeError(f"two extents that must be equal are {symbols[name]} and {actual}")
        for declared, actual in pairs:
            if not isinstance(declared, str):
                if declared != actual:
                    raise SizeError(f"an extent is fixed to {declared}")
                continue
            names = pt2_sizes.symbols_in(declared) - set(symbols)
            if len(names) == 1:
                (name,) = names
                slope, offset = pt2_sizes.affine(declared, name)
                if slope == 0 or (actual - offset) % slope:
                    raise SizeError(f"{actual} is no multiple of {slope} and {offset}")
                symbols[name] = (actual - offset) // slope
            if pt2_sizes.evaluate(declared, symbols) != actual:
                raise SizeError(f"{actual} is not what its other extents ask for")
        return symbols


def read_pt2(path: Path) -> SavedProgram:
    """The program in ``path``, a network of one image.

    Raises :class:`InputError` for anything but a plain archive of torch's schema 8 whose weights fit into memory, and
    :class:`UnsupportedError` for operators, inputs and results that are not replayed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive, path).program()
    except CodesignError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, zipfile.LargeZipFile) as error:
        raise _refused(path, f"not a readable .pt2 archive ({_said(error)})") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as error:
        # RecursionError of a deeply nested JSON is a RuntimeError, as what zlib and torch raise.
        raise _refused(path, f"not a program as torch {torch.__version__} writes it ({_said(error)})") from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _refused(path: Path, what: str) -> InputError:
    return InputError(
        what,
        where=str(path),
        hint="Save the network again with torch.export.save of this torch release, its weights plain tensors.",
    )


class _Archive:
    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path = archive, path
        infos = archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise _refused(path, f"the archive has {len(infos)} members")
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename.split("/", 1)[1] if "/" in info.filename else info.filename
            if name in self.members:
                raise _refused(path, f"the archive has two members called '{name[:80]}'")
            self.members[name] = info
        self.unread = MAX_GRAPH_BYTES  # bytes of JSON that may still be read
        self.budget = min(MAX_WEIGHT_BYTES, free_memory() // COPIES)  # bytes that weights may still take
        self.unheld = self.budget // 8  # bytes of them that no file holds: a stride of 0 makes much of little
        self.listed: dict[str, tuple[str, Mapping[str, Any]]] = {}  # parameter -> member's folder, its description

    def program(self) -> SavedProgram:
        if _PROGRAM not in self.members:
            raise _refused(self.path, "the archive holds no exported program")
        saved = self._json(_PROGRAM)
        version = saved["schema_version"]["major"]
        if version != SCHEMA:
            raise _refused(self.path, f"a program of torch's schema {str(version)[:20]}, not {SCHEMA}")
        self._check_byte_order()
        for listing in _LISTINGS:
            if listing not in self.members:
                raise _refused(self.path, f"the archive has no '{listing}'")
            folder = listing.rpartition("/")[0]
            self.listed |= {name: (folder, one) for name, one in self._json(listing)["config"].items()}
        graph, signature = saved["graph_module"]["graph"], saved["graph_module"]["signature"]
        self._check_operators(graph)
        images, constants = self._inputs(signature["input_specs"])
        self._check_results(signature["output_specs"], graph)
        if len(images) != 1:
            raise UnsupportedError(
                f"the program takes {len(images)} inputs",
                where=str(self.path),
                hint="Export a network of one image [1, C, H, W].",
            )
        described = graph["tensor_values"][images[0]]
        if DTYPES[described["dtype"]] is not torch.float32 or len(described["sizes"]) != 4:
            raise UnsupportedError(
                f"the program takes {str(DTYPES[described['dtype']]).removeprefix('torch.')} of "
                f"{len(described['sizes'])} dimensions",
                where=str(self.path),
                hint="Export a network of one float32 image [1, C, H, W].",
            )
        guards = tuple(map(str, saved.get("guards_code") or ()))
        if len(guards) > MAX_GUARDS:
            raise _refused(self.path, f"the program has {len(guards)} guards")
        ranges = {
            str(name): (_whole(one.get("min_val")), _whole(one.get("max_val")))
            for name, one in saved["range_constraints"].items()
        }
        return SavedProgram(
            Replay(graph, constants, images).eval(),
            tuple(map(self._extent, described["sizes"])),
            ranges,
            guards,
            str(self.path),
        )

    def _json(self, member: str) -> Any:
        content = bytes(self._read(member, self.unread))
        self.unread -= len(content)
        return json.loads(content)

    def _read(self, member: str, most: int) -> bytearray:
        """The content of a member of at most ``most`` bytes, as its directory entry announces it."""
        info = self.members[member]
        if info.file_size > most:
            raise _refused(self.path, f"'{member[:80]}' has {info.file_size} bytes, more than {most}")
        if info.file_size > 2**20 and info.file_size > MAX_RATIO * info.compress_size:
            raise _refused(self.path, f"'{member[:80]}' unpacks to more than {MAX_RATIO} times its size")
        content = bytearray()
        with self.archive.open(info) as stream:
            while len(content) <= info.file_size and (block := stream.read(2**20)):
                content += block
        if len(content) != info.file_size:
            raise _refused(self.path, f"'{member[:80]}' is not as long as the archive says")
        return content

    def _check_byte_order(self) -> None:
        if "byteorder" in self.members and bytes(self._read("byteorder", 64)).strip() not in (b"", b"little"):
            raise _refused(self.path, "the weights are not stored little-endian")

    def _check_operators(self, graph: Mapping[str, Any]) -> None:
        """Refuse operators that are not replayed, nested ones too, before anything is computed or read."""
        graphs, seen = [graph], 0
        while graphs:
            nodes = graphs.pop()["nodes"]
            seen += len(nodes)
            if seen > MAX_NODES:
                raise _refused(self.path, f"the program has more than {MAX_NODES} operators")
            for node in nodes:
                target = str(node["target"])
                if not replayable(target):
                    raise UnsupportedError(
                        f"operator '{target[:80]}' is not one of torch's own that are replayed",
                        where=f"{self.path}, '{str(node.get('name', ''))[:80]}'",
                        hint="Export the network with operators of torch's own, without control flow.",
                    )
                graphs += [one["arg"]["as_graph"]["graph"] for one in node["inputs"] if "as_graph" in one["arg"]]

    def _inputs(self, specs: Sequence[Any]) -> tuple[list[str], dict[str, Any]]:
        """Names of the images, and the values of all other inputs of the graph."""
        images: list[str] = []
        constants: dict[str, Any] = {}
        for spec in specs:
            ((kind, value),) = spec.items()
            match kind:
                case "user_input" if "as_tensor" in value["arg"]:
                    images.append(str(value["arg"]["as_tensor"]["name"]))
                case "parameter" | "buffer" | "tensor_constant":
                    key = {"parameter": "parameter_name", "buffer": "buffer_name"}.get(kind, "tensor_constant_name")
                    constants[str(value["arg"]["name"])] = self._tensor(str(value[key]))
                case "constant_input":
                    ((_, number),) = value["value"].items()
                    constants[str(value["name"])] = None if "as_none" in value["value"] else number
                case _:
                    raise UnsupportedError(
                        f"the program takes an input of kind '{kind[:40]}'",
                        where=str(self.path),
                        hint="Export a network of one image [1, C, H, W].",
                    )
        return images, constants

    def _check_results(self, specs: Sequence[Any], graph: Mapping[str, Any]) -> None:
        for spec in specs:
            ((kind, _),) = spec.items()
            if kind != "user_output":
                raise UnsupportedError(
                    f"the program has a result of kind '{kind[:40]}': it changes what it holds while it runs",
                    where=str(self.path),
                    hint="Export the network in evaluation mode, without state of its own.",
                )
        if len(specs) != len(graph["outputs"]):
            raise _refused(self.path, "its signature and its graph have different results")

    def _tensor(self, name: str) -> torch.Tensor:
        """A weight. Its description must fit the bytes that are there."""
        if name not in self.listed:
            raise _refused(self.path, f"the data of '{name[:80]}' are missing")
        folder, payload = self.listed[name]
        file, described = payload["path_name"], payload["tensor_meta"]
        plain = isinstance(file, str) and re.fullmatch(r"(weight|tensor)_\d+", file) is not None
        if payload.get("use_pickle") is not False or not plain or not isinstance(described, Mapping):
            raise _refused(self.path, f"'{name[:80]}' is stored as a pickle, which could run code")
        member = f"{folder}/{file}"
        if member not in self.members:
            raise _refused(self.path, f"the data of '{name[:80]}' are missing")
        if described["layout"] != 7:
            raise _refused(self.path, f"'{name[:80]}' is not stored as a dense tensor")
        dtype = DTYPES[described["dtype"]]
        sizes = [_extent_of(one) for one in described["sizes"]]
        strides = [_extent_of(one) for one in described["strides"]]
        offset = _extent_of(described["storage_offset"])
        held = self.members[member].file_size
        self.budget -= max(math.prod(sizes) * dtype.itemsize, held)
        self.unheld -= max(0, math.prod(sizes) * dtype.itemsize - held)
        if self.budget < 0 or self.unheld < 0:
            raise _refused(self.path, "its weights do not fit into memory")
        if len(sizes) != len(strides):
            raise _refused(self.path, f"the description of '{name[:80]}' contradicts itself")
        reach = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
        content = self._read(member, MAX_WEIGHT_BYTES)
        if math.prod(sizes) == 0:
            return torch.empty(sizes, dtype=dtype)
        if reach * dtype.itemsize > len(content) or len(content) % dtype.itemsize:
            raise _refused(self.path, f"the data of '{name[:80]}' are {len(content)} bytes, too few or too many")
        return torch.frombuffer(content, dtype=dtype).as_strided(sizes, strides, offset)

    def _extent(self, size: Mapping[str, Any]) -> int | str:
        if "as_int" in size:
            return _extent_of(size)
        text = size["as_expr"]["expr_str"]
        try:
            pt2_sizes.symbols_in(text)
        except SizeError as error:
            raise _refused(
                self.path, f"a size expression that is more than arithmetic ({error}): {text[:80]!r}"
            ) from error
        return str(text)


def _extent_of(size: Mapping[str, Any]) -> int:
    value = _whole(size["as_int"])
    if value is None or value < 0:
        raise ValueError("a negative size, or none")
    return value


def _whole(value: Any) -> int | None:
    """``value``, which must be an integer of 63 bits or None."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63):
        raise ValueError("a size that is no integer of 63 bits")
    return value
