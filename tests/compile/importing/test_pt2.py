"""``.pt2`` archives are data: nothing in them runs or takes unbounded memory; valid ones give torch's results."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.compile.importing import pt2 as pt2_file
from codesign.compile.importing.model import load_model
from codesign.compile.importing.pt2 import read_pt2
from codesign.compile.ir.aten import find_operator
from codesign.compile.ir.evaluate import run
from codesign.compile.ir.relax import from_module
from codesign.hw.errors import InputError, UnsupportedError

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


class Network(nn.Module):
    """Two layers, a buffer, sizes, an in-place operator, and ``no_grad``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.uniform_(-1, 1)
        self.last = nn.Conv2d(8, 12, 3, padding=1)
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[2]
        with torch.no_grad():
            enlarged = F.interpolate(x, scale_factor=2, mode="nearest")
        y = self.norm(self.first(x - self.mean)).relu_()
        y = F.pixel_shuffle(self.last(torch.cat([y[:, 4:], y[:, :4]], 1)), 2)
        return y[:, :, : rows * 2] + enlarged


Members = dict[str, bytes]


def _saved(network: nn.Module, shape: tuple[int, ...] = (1, 3, 16, 16), dims: Any = None) -> Members:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network.eval(), (torch.zeros(shape),), dynamic_shapes=dims), buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {info.filename.split("/", 1)[1]: archive.read(info) for info in archive.infolist()}


DYNAMIC = ({2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)


@pytest.fixture(scope="module")
def fixed() -> Members:
    return _saved(Network())


@pytest.fixture(scope="module")
def dynamic() -> Members:
    return _saved(Network(), dims=DYNAMIC)


def _write(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"net/{name}", content)
    return path


def _changed(members: Members, change: Callable[[Any], None], member: str = PROGRAM) -> Members:
    tree = json.loads(members[member])
    change(tree)
    return {**members, member: json.dumps(tree).encode()}


def _renamed(value: Any, old: str, new: str) -> Any:
    """``value`` with every string and key ``old`` spelled ``new``."""
    if isinstance(value, dict):
        return {(new if key == old else key): _renamed(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, old, new) for item in value]
    return new if value == old else value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def _expected(shape: tuple[int, ...] = (1, 3, 16, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return image, Network().eval()(image)


def test_means_what_torch_means(tmp_path: Path, fixed: Members, dynamic: Members) -> None:
    for name, members, (rows, columns) in (("f", fixed, (16, 16)), ("d", dynamic, (16, 16)), ("d", dynamic, (13, 37))):
        image, expected = _expected((1, 3, rows, columns))
        model = load_model(_write(tmp_path / f"{name}.pt2", members), width=columns, height=rows)
        found = run(from_module(model.module), image)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        names = [node.name for node in from_module(model.module).nodes]
        assert {"first", "last", "pixel_shuffle"} <= set(names)


def test_replays_what_has_several_results_and_mixed_types(tmp_path: Path) -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("wide", torch.rand(8, 6)[:, ::2])  # a view with strides of its own
            self.register_buffer("narrow", torch.rand(3, 1, 1, dtype=torch.float16))
            self.register_buffer("index", torch.tensor([2, 0, 1]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b, c = torch.split(x, [1, 1, 1], 1)
            value, where = torch.max(x, 1, keepdim=True)
            y = torch.cat([c, a, b], 1)[:, self.index] + value * where.to(torch.float32) + self.narrow.float()
            y = torch.einsum("oc,nchw->nohw", self.wide, y)
            y = F.gelu(y, approximate="tanh").masked_fill(y < -0.5, float("-inf"))
            return F.layer_norm(torch.clamp(y, min=-3.0), [x.shape[3]]) / math.sqrt(x.shape[2] // 2)

    network = Several().eval()
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    for dims in (None, DYNAMIC):
        program = read_pt2(_write(tmp_path / "net.pt2", _saved(network, dims=dims)))
        with torch.no_grad():
            assert torch.equal(program.module(image), network(image))


def _tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def _twice(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = 2 * x
    return y + x


LAYERS: dict[str, nn.Module] = {
    "layer norm": nn.LayerNorm(16),
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm2d(4, affine=True),
    "reflect": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "depthwise": nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4),
    "transposed": nn.ConvTranspose2d(4, 4, 4, 2, 1),
    "weight norm": nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
    "attention": nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
}
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "attends": lambda x: F.scaled_dot_product_attention(x, x, x) + (x @ x.mT).softmax(-1) @ x,
    "samples": lambda x: F.grid_sample(x, torch.tanh(x[:, :2].permute(0, 2, 3, 1)), align_corners=True),
    "bilinear": lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=False),
    "bicubic": lambda x: F.interpolate(x, size=(20, 24), mode="bicubic"),
    "antialiased": lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True),
    "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"),
    "unfolds": lambda x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1),
    "shuffles": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2) + F.channel_shuffle(x, 2),
    "activates": lambda x: F.mish(x) + F.hardswish(x) + F.softplus(x) + F.elu(x) + F.logsigmoid(x) + F.hardtanh(x),
    "activates too": lambda x: F.rrelu(x) + F.selu(x) + F.celu(x) + F.softsign(x) + F.tanhshrink(x) + F.relu6(x),
    "gates": lambda x: F.glu(x, 1) + x.chunk(2, 1)[0].sigmoid() * x.split(2, 1)[1],
    "rolls": lambda x: torch.roll(x, (2, 3), (2, 3)).flip(3).rot90(1, (2, 3)),
    "sums": lambda x: torch.einsum("bchw,bdhw->bcd", x, x) + x.mean((2, 3))[..., None].mT,
    "pools": lambda x: F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1) + F.max_pool2d(x, 16),
    "chooses": lambda x: torch.where(x > 0, x, x.new_zeros(())).masked_fill((x < -1) | (x > 3), 0.5),
    "sorts": lambda x: torch.topk(x, 2, 1)[0] + torch.sort(x, 1)[0][:, :2],
    "normalises": lambda x: F.normalize(x, dim=1) + torch.var_mean(x, 1, keepdim=True)[0] + F.rms_norm(x, (16,)),
    "places": lambda x: x + sum(torch.meshgrid(torch.linspace(-1, 1, 16), 0.1 * torch.arange(16), indexing="ij")),
    "turns": lambda x: x.movedim(1, -1).unflatten(3, (2, 2)).flatten(3).permute(0, 3, 1, 2).contiguous(),
    "types": lambda x: x.half().float() + x.double().float() + x.to(torch.bfloat16).to(torch.float32),
    "pads": lambda x: F.pad(x, (1, 2, 3, 4), mode="replicate") + F.pad(x, (1, 2, 3, 4), mode="circular"),
    "under no_grad": _twice,
}


@pytest.mark.parametrize("dims", [None, DYNAMIC], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", [*LAYERS, *FUNCTIONS])
def test_replays_what_networks_are_made_of(tmp_path: Path, name: str, dims: Any) -> None:

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LAYERS.get(name, nn.Identity())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(_tokens(x) if name == "attention" else x) if name in LAYERS else FUNCTIONS[name](x)

    network = Made().eval()
    image = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    members = _saved(network, (1, 4, 16, 16), dims)
    program = read_pt2(_write(tmp_path / "net.pt2", members))
    with torch.no_grad():
        # Eager attention has a fused kernel of its own, which rounds otherwise.
        torch.testing.assert_close(program.module(image), network(image), rtol=1e-5, atol=1e-5)


PAYLOADS = (
    "{old}=__import__('pathlib').Path('executed').touch()",
    "{old}: __import__('pathlib').Path('executed').touch()",
    "__import__('pathlib').Path('executed').touch()",
    "{old}); __import__('pathlib').Path('executed').touch(); (",
    "{old}\n    __import__('pathlib').Path('executed').touch()\n",
    "{old}\"); __import__('pathlib').Path('executed').touch(); (\"",
    "L['x'].size()[2] if __import__('pathlib').Path('executed').touch() else 1",
)


@pytest.mark.parametrize("which", ["fixed", "dynamic"])
def test_no_text_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, request: Any) -> None:
    """Every text that the graph holds (names, targets, keys, stacks, expressions, guards) in turn becomes code."""
    monkeypatch.chdir(tmp_path)
    members: Members = request.getfixturevalue(which)
    tree = json.loads(members[PROGRAM])
    tree["guards_code"] = ["L['x'].size()[2] < 100000"]
    rng = random.Random(which)
    accepted = 0
    for old in sorted(set(_strings(tree))):
        new = rng.choice(PAYLOADS).format(old=old)
        changed = {**members, PROGRAM: json.dumps(_renamed(tree, old, new)).encode()}
        try:
            program = read_pt2(_write(tmp_path / "net.pt2", changed))
            program.check_extents((1, 3, 16, 16))
            with torch.no_grad():
                torch.export.export(program.module, (torch.zeros(1, 3, 16, 16),)).module()(torch.zeros(1, 3, 16, 16))
            accepted += 1
        except InputError:
            pass
        assert not (tmp_path / "executed").exists(), f"{old!r} as {new!r}"
    assert accepted > 20  # names are free, as long as they are used alike


def test_whole_import_with_names_that_are_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: Members, dynamic: Members
) -> None:
    monkeypatch.chdir(tmp_path)
    image, expected = _expected()
    for members, old in (
        (fixed, "x"),
        (dynamic, "x"),
        (fixed, "p_first_weight"),
        (fixed, "relu_"),
        (fixed, "first.weight"),
    ):
        changed = {
            name: json.dumps(_renamed(json.loads(content), old, PAYLOADS[0].format(old=old))).encode()
            if name in (PROGRAM, WEIGHTS)
            else content
            for name, content in members.items()
        }
        model = load_model(_write(tmp_path / "net.pt2", changed), width=16, height=16)
        torch.testing.assert_close(run(from_module(model.module), image), expected, rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "executed").exists()


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("executed"),)


def test_pickles_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: Members) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(_Bomb())
    # The example inputs are the one pickle of every archive: left where they are.
    read_pt2(_write(tmp_path / "inputs.pt2", {**fixed, "data/sample_inputs/model.pt": bomb}))
    for flag in (True, 1, None, "no"):

        def pickled(listing: Any, flag: Any = flag) -> None:
            listing["config"]["first.weight"]["use_pickle"] = flag

        evil = _changed({**fixed, "data/weights/weight_0": bomb}, pickled, WEIGHTS)
        with pytest.raises(InputError, match="pickle"):
            read_pt2(_write(tmp_path / "weights.pt2", evil))
    assert not (tmp_path / "executed").exists()


def test_declared_sizes_hold(tmp_path: Path) -> None:
    """Equal, derived and bounded extents and guards are checked as torch checks them."""
    rows = torch.export.Dim("rows", min=4, max=64)
    half = torch.export.Dim("half", min=2, max=32)

    class Halved(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.pixel_unshuffle(x, (2)) if x.shape[3] % 2 == 0 else x

    class Padded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(F.pad(x, (0, 0, 0, (8 - x.shape[2] % 8) % 8)))

    program = read_pt2(_write(tmp_path / "d.pt2", _saved(nn.Conv2d(3, 3, 3), dims=({2: rows, 3: 2 * half},))))
    program.check_extents((1, 3, 64, 64))
    program.check_extents((1, 3, 4, 4))
    for wrong in ((1, 3, 3, 8), (1, 3, 65, 8), (1, 3, 8, 9), (1, 3, 8, 66), (2, 3, 8, 8)):
        with pytest.raises(InputError, match="was not exported for"):
            program.check_extents(wrong)
    program = read_pt2(_write(tmp_path / "g.pt2", _saved(Padded(), dims=DYNAMIC)))
    program.check_extents((1, 3, 24, 9))
    program = read_pt2(_write(tmp_path / "e.pt2", _saved(Halved(), dims=({2: 2 * half, 3: 2 * half},))))
    program.check_extents((1, 3, 12, 12))
    with pytest.raises(InputError, match="was not exported for"):
        program.check_extents((1, 3, 12, 14))


@pytest.mark.parametrize("text", ["9**9**9", "1" * 40 + "!", "(" * 9999, "Symbol('s0', ['", "print(1)", "Max(oo, 1)"])
def test_hostile_sizes_of_the_image(tmp_path: Path, dynamic: Members, text: str) -> None:
    def change(tree: Any) -> None:
        tree["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][2]["as_expr"]["expr_str"] = text

    with pytest.raises(InputError):
        load_model(_write(tmp_path / "net.pt2", _changed(dynamic, change)), width=16, height=16)

    def guard(tree: Any) -> None:
        tree["guards_code"] = [text]

    with pytest.raises(InputError):
        load_model(_write(tmp_path / "net.pt2", _changed(dynamic, guard)), width=16, height=16)


def _node(target: str, *arguments: tuple[str, Any], output: str = "made") -> dict[str, Any]:
    return {
        "target": target,
        "inputs": [{"name": name, "arg": value, "kind": 1} for name, value in arguments],
        "outputs": [{"as_tensor": {"name": output}}],
        "metadata": {},
        "is_hop_single_tensor_return": None,
        "name": output,
    }


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.serialization.os.system",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "math.factorial",
        "torch.ops.aten.__class__.mro",
        "torch.ops.aten.add.__class__",
        "torch.ops.aten.relu.nonsense",
        "torch.load",
        "torch.ops.prim.Print.default",
        "torch.ops.higher_order.cond",
        "_operator.attrgetter",
        "_operator.setitem",
        "#x:y",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten._print.default",
        "torch.ops.profiler._record_function_enter.default",
        "torch.ops.inductor.accumulate_grad_.default",
        "torch.ops.load_library",
        "torch.ops.aten.remainder.int",
        "torch.ops.aten.remainder.default",
        "torch.ops.aten.set_grad_enabled.default",
        "torch.ops.aten.mul.left_t",
        "torch.ops.aten._thnn_differentiable_lstm_cell_backward.default",
        "torch.ops.aten._nnpack_spatial_convolution.default",
        "torch.ops.aten.record_stream.default",
        "torch.ops.prims.clone.default",
        "",
    ],
)
def test_operators_that_are_not_arithmetic(tmp_path: Path, fixed: Members, target: str) -> None:
    def change(tree: Any) -> None:
        tree["graph_module"]["graph"]["nodes"].insert(0, _node(target, ("filename", {"as_string": "executed"})))

    with pytest.raises(UnsupportedError, match="not one of torch's own"):
        read_pt2(_write(tmp_path / "net.pt2", _changed(fixed, change)))

    def nested(tree: Any) -> None:
        graph = {"inputs": [], "outputs": [], "nodes": [_node(target)]}
        inner = ("", {"as_graph": {"name": "g", "graph": graph}})
        wrap = "torch.ops.higher_order.wrap_with_set_grad_enabled"
        tree["graph_module"]["graph"]["nodes"].insert(0, _node(wrap, ("", {"as_bool": False}), inner))

    with pytest.raises(UnsupportedError, match="not one of torch's own"):
        read_pt2(_write(tmp_path / "net.pt2", _changed(fixed, nested)))


def test_every_operator_that_is_replayed_is_on_tensors() -> None:
    """None takes storage, streams or names of files; TorchScript's, on numbers and lists alone, are not among them."""
    found = 0
    for name in torch._C._dispatch_get_all_op_names():
        plain, _, overload = name.removeprefix("aten::").partition(".")
        operator = (
            find_operator(f"torch.ops.aten.{plain}.{overload or 'default'}") if name.startswith("aten::") else None
        )
        if operator is None:
            continue
        found += 1
        kinds = {str(one.type) for one in operator._schema.arguments}
        assert not kinds & {"Storage", "Stream", "Generator"}
        assert not {one.name for one in operator._schema.arguments if "str" in str(one.type)} & {
            "filename",
            "path",
            "s",
        }
        if plain != "sym_constrain_range" and "assert" not in plain and "constrain" not in plain:
            assert any("Tensor" in str(one.type) for one in (*operator._schema.arguments, *operator._schema.returns))
    assert found > 500


@pytest.mark.parametrize("kind", ["dtype", "memory_format", "layout", "device"])
@pytest.mark.parametrize("value", [{"as_int": 99}, {"as_int": -1}, {"as_string": "x"}, {"as_bool": True}])
def test_enumerators_are_never_numbers(tmp_path: Path, fixed: Members, kind: str, value: Any) -> None:
    """torch would look them up in a table of C pointers, beyond its end."""

    def change(tree: Any) -> None:
        node = _node("torch.ops.aten.empty_like.default", ("self", {"as_tensor": {"name": "x"}}), (kind, value))
        tree["graph_module"]["graph"]["nodes"].insert(0, node)

    with pytest.raises(InputError, match="is no"):
        load_model(_write(tmp_path / "net.pt2", _changed(fixed, change)), width=16, height=16)


@pytest.mark.parametrize(
    "node",
    [
        _node("_operator.pow", ("a", {"as_int": 10**9}), ("b", {"as_int": 10**9})),
        _node("_operator.mul", ("a", {"as_int": 2**62}), ("b", {"as_int": 2**62})),
        _node("_operator.add", ("a", {"as_ints": [1] * 9}), ("b", {"as_ints": [1] * 9})),
        _node("torch.ops.aten.full.default", ("size", {"as_ints": [2**20, 2**20]}), ("fill_value", {"as_int": 1})),
        _node("torch.ops.aten.arange.default", ("end", {"as_int": 2**40})),
        _node(
            "torch.ops.aten.repeat.default",
            ("self", {"as_tensor": {"name": "x"}}),
            ("repeats", {"as_ints": [2**20] * 4}),
        ),
        _node("torch.ops.aten.relu.default", ("self", {"as_tensor": {"name": "unknown"}})),
        _node("torch.ops.aten.relu.default", ("self=1); print(", {"as_tensor": {"name": "x"}})),
        _node("torch.ops.aten.relu.default", ("self", {"as_graph": {"name": "g", "graph": {"nodes": []}}})),
        _node("_operator.getitem", ("a", {"as_tensor": {"name": "x"}}), ("b", {"as_string": "x"})),
        _node("_operator.mul", ("a", {"as_ints": [1]}), ("b", {"as_int": 2**30})),
        _node("torch.ops.aten.full.default", ("size", {"as_ints": [2**28]}), ("fill_value", {"as_int": 1})),
    ],
)
def test_operators_that_explode_or_read_nothing(tmp_path: Path, fixed: Members, node: Any) -> None:
    def change(tree: Any) -> None:
        tree["graph_module"]["graph"]["nodes"].insert(0, copy.deepcopy(node))

    with pytest.raises(InputError, match=r"replayed|not a program"):
        load_model(_write(tmp_path / "net.pt2", _changed(fixed, change)), width=16, height=16)


def test_constants_count_together(tmp_path: Path, fixed: Members) -> None:
    def change(tree: Any) -> None:
        nodes = tree["graph_module"]["graph"]["nodes"]
        for index in range(9):
            made = {"as_ints": [2**24]}, {"as_int": 1}
            nodes.insert(
                0, _node("torch.ops.aten.full.default", ("size", made[0]), ("fill_value", made[1]), output=f"c{index}")
            )

    with pytest.raises(InputError, match="makes constants of"):
        load_model(_write(tmp_path / "net.pt2", _changed(fixed, change)), width=16, height=16)


def test_a_stride_of_zero_makes_no_memory(tmp_path: Path, fixed: Members) -> None:
    def change(listing: Any) -> None:
        meta = listing["config"]["first.weight"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 2**26}], [{"as_int": 0}]

    with pytest.raises(InputError, match="do not fit into memory"):
        read_pt2(_write(tmp_path / "net.pt2", _changed(fixed, change, WEIGHTS)))


def test_guards_are_few_and_names_are_any(tmp_path: Path, fixed: Members) -> None:
    with pytest.raises(InputError, match="guards"):
        read_pt2(_write(tmp_path / "net.pt2", _changed(fixed, lambda tree: tree.update(guards_code=["1"] * 5000))))
    for name in ("\udc80", "\x00", "a/b", "é" * 300):

        def change(tree: Any, name: str = name) -> None:
            for node in tree["graph_module"]["graph"]["nodes"]:
                node["name"], node["metadata"] = name, {"nn_module_stack": f"a,{name},torch.nn.modules.conv.Conv2d"}

        image, expected = _expected()
        model = load_model(_write(tmp_path / "net.pt2", _changed(fixed, change)), width=16, height=16)
        torch.testing.assert_close(run(from_module(model.module), image), expected, rtol=1e-4, atol=1e-5)


def test_members_that_do_not_fit(tmp_path: Path, fixed: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(2**24)
    bomb = _write(tmp_path / "bomb.pt2", {**fixed, "data/weights/weight_0": zeros}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="unpacks to more than"):
        read_pt2(bomb)
    bomb = _write(tmp_path / "bomb.pt2", {**fixed, PROGRAM: b" " * 2**24 + fixed[PROGRAM]}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="unpacks to more than"):
        read_pt2(bomb)
    # A member that nobody needs costs nothing.
    read_pt2(_write(tmp_path / "unused.pt2", {**fixed, "data/weights/unused": zeros}, zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(pt2_file, "free_memory", lambda: 1000)
    with pytest.raises(InputError, match="do not fit into memory"):
        read_pt2(_write(tmp_path / "net.pt2", fixed))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sizes", [{"as_int": 2**40}] * 4),
        ("sizes", [{"as_int": -1}] * 4),
        ("sizes", []),
        ("sizes", [{"as_int": 8}]),
        ("sizes", [{"as_int": 8}, {"as_int": 3}, {"as_int": 3}, {"as_int": 300}]),
        ("strides", [{"as_int": -1}] * 4),
        ("strides", [{"as_int": 2**31}] * 4),
        ("storage_offset", {"as_int": 10**9}),
        ("storage_offset", {"as_int": -5}),
        ("dtype", 0),
        ("dtype", 99),
        ("dtype", 8),
        ("layout", 1),
        ("sizes", [{"as_expr": {"expr_str": "s0"}}] * 4),
        ("sizes", [{"as_int": True}] * 4),
        ("sizes", [{"as_int": 1e9}] * 4),
        ("sizes", None),
    ],
)
def test_weights_that_contradict_their_description(tmp_path: Path, fixed: Members, key: str, value: Any) -> None:
    def change(listing: Any) -> None:
        listing["config"]["first.weight"]["tensor_meta"][key] = value

    with pytest.raises(InputError):
        load_model(_write(tmp_path / "net.pt2", _changed(fixed, change, WEIGHTS)), width=16, height=16)


@pytest.mark.parametrize("member", ["data/weights/weight_0", PROGRAM, WEIGHTS])
def test_emptied_and_missing_members(tmp_path: Path, fixed: Members, member: str) -> None:
    with pytest.raises(InputError):
        read_pt2(_write(tmp_path / "net.pt2", {**fixed, member: b""}))
    with pytest.raises(InputError):
        read_pt2(_write(tmp_path / "net.pt2", {name: one for name, one in fixed.items() if name != member}))
    if member.endswith(".json"):
        with pytest.raises(InputError):
            read_pt2(_write(tmp_path / "net.pt2", {**fixed, member: b"[" * 100_000}))


def test_networks_that_change_themselves(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.add_(1)
            return x * self.seen

    program = torch.export.export(Counting(), (torch.zeros(1, 3, 8, 8),)).run_decompositions()
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(UnsupportedError, match="changes what it holds"):
        load_model(tmp_path / "net.pt2", width=8, height=8)
