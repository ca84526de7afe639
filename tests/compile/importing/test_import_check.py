"""Every import is held against the model's own engine, and a wrong one is refused by the operator's name."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from tvm import relax

from codesign import networks
from codesign.compile.importing import exported
from codesign.compile.importing import onnx as onnx_door
from codesign.compile.importing.check import check, frame
from codesign.compile.importing.check.child import ChildError, Limits, in_child
from codesign.compile.importing.check.locate import Marker, culprit
from codesign.compile.importing.check.result import decibels
from codesign.compile.importing.model import ImportedModel, load_model
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.qdq_export import export_qdq
from codesign.compile.quantise.quantise import calibrate
from codesign.hw.errors import InputError, UnsupportedError

SMALL = Limits(20.0, 2**30)


class Net(nn.Module):
    """Two convolutions, and what a test puts between them."""

    def __init__(self, middle: Callable[[torch.Tensor], torch.Tensor] = torch.relu, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.middle = middle
        self.first, self.last = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x)))


def _written(tmp_path: Path, kind: str, net: nn.Module, channels: int = 3) -> nn.Module | Path:
    """``net`` as each kind of model that is let in, for frames of any size."""
    example = torch.rand(1, channels, 16, 18)
    if kind == "module":
        return net.eval()
    path = tmp_path / f"net.{kind}"
    if kind == "pt2":
        sizes = ({2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
        torch.export.save(torch.export.export(net.eval(), (example,), dynamic_shapes=sizes), path)
    else:
        axes = {"x": {2: "h", 3: "w"}}
        options = {"input_names": ["x"], "output_names": ["y"], "opset_version": 17, "dynamic_axes": axes}
        torch.onnx.export(net.eval(), (example,), str(path), dynamo=False, **options)
    return path


def _onnx(
    path: Path, nodes: list[Any], tensors: dict[str, Any], shape: Any = (1, 3, "h", "w"), opset: int = 17
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "oh", "ow"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


KINDS = ("module", "pt2", "onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_import_is_told_in_decibels(tmp_path: Path, kind: str) -> None:
    model = load_model(_written(tmp_path, kind, Net()), width=20, height=14)
    found = model.check
    assert found.decibels is not None
    assert found.decibels > 100
    assert found.frame == frame.ODD, "the size is free"
    assert str(found) == f"{found.decibels:.0f} dB" or found.decibels == math.inf
    assert found.engine.startswith("ONNX Runtime" if kind == "onnx" else "torch")
    assert json.loads(json.dumps(found.to_json()))["checked"]


WRONG: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "tanh": ("tanh", torch.tanh),
    "sigmoid": ("sigmoid", torch.sigmoid),
    "after others": ("tanh", lambda x: torch.tanh(F.leaky_relu(x, 0.2) + x.abs()) * 2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRONG)
def test_an_operator_with_a_wrong_meaning_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    """The importer takes another function for one operator."""
    operator, middle = WRONG[name]
    source = _written(tmp_path, kind, Net(middle))

    def other(x: Any) -> Any:
        return relax.op.sin(x)

    def torch_importer(importer: Any, node: Any) -> Any:
        return importer.block_builder.emit(other(importer.env[node.args[0]]))

    own = exported._NamingImporter.create_convert_map

    def converters(importer: Any) -> Any:
        return {**own(importer), f"{operator}.default": lambda node: torch_importer(importer, node)}

    monkeypatch.setattr(exported._NamingImporter, "create_convert_map", converters)
    converter = onnx_door.converted
    monkeypatch.setattr(
        onnx_door,
        "converted",
        lambda emit, op, inputs, *rest: (
            other(inputs[0]) if op.lower() == operator else converter(emit, op, inputs, *rest)
        ),
    )
    with pytest.raises(UnsupportedError, match="was imported wrongly") as refused:
        load_model(source, width=20, height=14)
    assert refused.value.where.lower().startswith(f"{operator} '")
    assert "first operator that differs" in refused.value.what
    model = load_model(source, width=20, height=14, check=False)
    assert str(model.check) == "NOT CHECKED"


def test_a_wrong_rewriting_is_named_by_the_operator_that_it_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph was read rightly; canonicalisation drops an operator, which has no node of its own any more."""
    from codesign.compile.canonical import passes

    own = passes._is_identity
    monkeypatch.setattr(passes, "_is_identity", lambda graph, node: node.op == "abs" or own(graph, node))
    with pytest.raises(UnsupportedError, match="was imported wrongly") as refused:
        load_model(Net(lambda x: torch.tanh(x.abs())), width=20, height=14)
    assert refused.value.where.startswith("abs 'abs")


class Twice(Net):
    """Enlarges an image to twice its size."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(6, 12, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(super().forward(x), 2)


class Recurrent(nn.Module):
    """An image and two states in, a result and two states out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.mix, self.out = nn.Conv2d(3 + 4 + 2, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        held = torch.tanh(self.mix(torch.cat((x, a, b), 1)))
        return self.out(held), held[:, :4] + a, held[:, 4:] * b


def test_states_come_in_and_go_out() -> None:
    model = load_model(Recurrent(), width=20, height=14, states=((4, 14, 20), (2, 14, 20)))
    assert len(model.check.outputs_db) == 3
    assert min(model.check.outputs_db) > 100
    assert model.check.frame == (20, 14), "states have a size"


def test_every_output_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One state alone is wrong."""
    own = check._outputs

    def shifted(*given: Any, **options: Any) -> Any:
        first, second, third = own(*given, **options)
        return [first, second, third + 0.01]

    monkeypatch.setattr(check, "_outputs", shifted)
    with pytest.raises(UnsupportedError, match="was imported wrongly"):
        load_model(Recurrent(), width=20, height=14, states=((4, 14, 20), (2, 14, 20)))


class OnlyEights(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 8 or x.shape[3] % 8:
            raise ValueError("not a multiple of eight")
        return super().forward(x)


class BySize(Net):
    """Computes something else for odd sizes, which an import for one size cannot know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1.0 if x.shape[3] % 2 == 0 else 2.0)


@pytest.mark.parametrize(("net", "size"), [(OnlyEights(), (24, 16)), (BySize(), (24, 16)), (OnlyEights(), (640, 360))])
def test_a_size_that_a_model_refuses_or_treats_otherwise(net: nn.Module, size: tuple[int, int]) -> None:
    found = load_model(net, width=size[0], height=size[1]).check
    assert found.frame == frame.small(*size)
    assert found.decibels is not None
    assert found.decibels > 100


@settings(deadline=None)
@given(st.integers(1, 5000), st.sampled_from([2, 4, 8, 16, 32, 64]))
def test_small_sizes_keep_their_remainders(side: int, multiple: int) -> None:
    (found, other) = frame.small(side, 2 * side)
    assert found % multiple == side % multiple
    assert max(found, other) <= frame.LARGEST


def test_a_frame_that_the_graph_mentions_is_checked_at_its_own_size(tmp_path: Path) -> None:
    class Columns(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.arange(x.shape[3]).float() / 50  # a constant as large as the frame

    assert load_model(Columns(), width=21, height=14).check.frame == (21, 14)
    assert load_model(Columns(), width=641, height=14).check.frame == (129, 14)
    path = _onnx(tmp_path / "fixed.onnx", [helper.make_node("Tanh", ["x"], ["y"])], {}, (1, 3, 10, 12))
    assert load_model(path, width=12, height=10).check.frame == (12, 10)


def test_half_precision_is_held_to_a_lower_bound(tmp_path: Path) -> None:
    class Half(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.half().float())

    assert load_model(Half(), width=20, height=14).check.bound_db == 50
    assert load_model(Net(), width=20, height=14).check.bound_db == 60
    casts = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    found = load_model(_onnx(tmp_path / "half.onnx", casts, {}), width=20, height=14).check
    assert found.bound_db == 50
    assert found.decibels is not None
    assert found.decibels >= 50


@pytest.mark.parametrize(("noise", "half", "passes"), [(3e-4, False, True), (3e-3, False, False), (3e-3, True, True)])
def test_the_bounds(monkeypatch: pytest.MonkeyPatch, noise: float, half: bool, passes: bool) -> None:
    """Noise of 70 and of 50.5 dB: half precision alone explains the latter."""

    class Cast(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.half().float() if half else x)

    own = check._outputs

    def noisy(*given: Any, **options: Any) -> Any:
        (value,) = own(*given, **options)
        rng = np.random.default_rng(1)
        return [value + rng.normal(0.0, noise * value.std(), value.shape).astype(np.float32)]

    monkeypatch.setattr(check, "_outputs", noisy)
    if passes:
        assert load_model(Cast(), width=20, height=14).check.decibels is not None
    else:
        with pytest.raises(UnsupportedError, match="where 60 are due"):
            load_model(Cast(), width=20, height=14)


class Noisy(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.rand_like(x) * 0.01)


class Dropping(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().forward(x), 0.5, training=True)


@pytest.mark.parametrize(("net", "name"), [(Noisy(), "rand"), (Dropping(), "dropout")])
def test_random_operators_are_refused(net: nn.Module, name: str) -> None:
    with pytest.raises(UnsupportedError, match="draws random numbers") as refused:
        load_model(net, width=20, height=14)
    assert name in refused.value.where or "bernoulli" in refused.value.where


def test_dropout_in_evaluation_draws_nothing() -> None:
    class Quiet(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.dropout(super().forward(x), 0.5, training=False)

    assert load_model(Quiet(), width=20, height=14).check.decibels is not None


@pytest.mark.parametrize("operator", ["RandomNormalLike", "RandomUniformLike", "Bernoulli", "Dropout"])
def test_random_operators_of_onnx_are_refused(tmp_path: Path, operator: str) -> None:
    inputs = ["x", "ratio", "train"] if operator == "Dropout" else ["x"]
    tensors = {"ratio": np.float32(0.5), "train": np.bool_(True)} if operator == "Dropout" else {}
    path = _onnx(tmp_path / "net.onnx", [helper.make_node(operator, inputs, ["y"], name="drawn")], tensors)
    with pytest.raises(UnsupportedError, match="draws random numbers") as refused:
        load_model(path, width=20, height=14)
    assert refused.value.where == f"{operator} 'drawn'"


def _slow(x: torch.Tensor) -> torch.Tensor:
    if not torch.compiler.is_exporting():
        time.sleep(60)
    return x


def _greedy(x: torch.Tensor) -> torch.Tensor:
    if not torch.compiler.is_exporting():
        torch.ones(2**30)
    return x


def _dying(x: torch.Tensor) -> torch.Tensor:
    if not torch.compiler.is_exporting():
        os.abort()
    return x


@pytest.mark.parametrize(
    ("middle", "limits", "words"),
    [
        (_slow, Limits(1.0, 2**30), "took more than 1 s"),
        (_greedy, Limits(20.0, 2**30), "needed more than 1 GiB"),
        (_dying, SMALL, "died (SIGABRT)"),
    ],
)
def test_what_stops_an_engine_is_said(
    monkeypatch: pytest.MonkeyPatch, middle: Callable[[torch.Tensor], torch.Tensor], limits: Limits, words: str
) -> None:
    monkeypatch.setattr(check, "LIMITS", limits)
    found = load_model(Net(middle), width=20, height=14).check
    assert found.decibels is None
    assert str(found).startswith("not checked, because torch")
    assert words in str(found)
    assert not found.to_json()["checked"]


def test_work_in_a_child() -> None:
    assert in_child(lambda: [1, 2], SMALL) == [1, 2]
    with pytest.raises(ChildError, match="no such thing") as raised:
        in_child(lambda: [][0] if False else (_ for _ in ()).throw(KeyError("no such thing")), SMALL)
    assert raised.value.kind == "raised"
    large = in_child(lambda: np.zeros(2**24), SMALL)
    assert large.shape == (2**24,), "more than a pipe holds"


def test_a_model_that_onnx_runtime_refuses_is_refused(tmp_path: Path) -> None:
    """The onnx package accepts a bound of two numbers."""
    clip = helper.make_node("Clip", ["x", "low", "high"], ["y"])
    path = _onnx(tmp_path / "clip.onnx", [clip], {"low": np.float32(0), "high": np.float32([1, 2])})
    with pytest.raises(InputError, match=r"ONNX Runtime .* refuses the model"):
        load_model(path, width=20, height=14)


def test_an_operator_that_the_engine_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codesign.compile.importing.check import engines

    def lacking(*_: Any) -> Any:
        raise ChildError("lacks", "no kernel")

    monkeypatch.setattr(engines, "_by_onnx_runtime", lacking)
    found = load_model(_written(tmp_path, "onnx", Net()), width=20, height=14).check
    assert "cannot run it (no kernel)" in str(found)


@pytest.mark.parametrize("name", ["sesr_m5_x2", "dncnn17", "edsr_baseline_x4"])
def test_quantised_models_are_equal_but_for_rounding(tmp_path: Path, name: str) -> None:
    network = networks.get(name)
    source = networks.load(name).eval()
    model = load_model(source, width=23, height=17, channels=network.channels)
    images = [frame.content([model.input_shape])[0]]
    path = tmp_path / "net.onnx"
    calibrated = calibrate(model.module, images)
    export_qdq(calibrated.quantised(calibrated.least).module, path)
    found = load_model(path, width=23, height=17).check
    assert found.decibels == math.inf or (found.differing and found.decibels is not None)
    assert "equal" in str(found) or "dB without" in str(found)


def test_a_quantised_model_with_a_wrong_scale_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from codesign.compile.importing import qdq

    model = load_model(Net(torch.tanh), width=23, height=17)
    calibrated = calibrate(model.module, [frame.content([model.input_shape])[0]])
    path = tmp_path / "net.onnx"
    export_qdq(calibrated.quantised(calibrated.least).module, path)
    own = qdq._params

    def doubled(graph: Any, node: Any, dtype: str) -> Any:
        params = own(graph, node, dtype)
        return replace(params, scale=2 * params.scale)

    monkeypatch.setattr(qdq, "_params", doubled)
    with pytest.raises(UnsupportedError, match="was imported wrongly"):
        load_model(path, width=23, height=17)


def test_decibels() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(1, 3, 40, 40)).astype(np.float32)
    assert decibels(wanted, wanted) == math.inf
    assert decibels(wanted, wanted + np.float32(0.001)) == pytest.approx(60, abs=0.3)
    assert decibels(wanted + 100, wanted + 101) == pytest.approx(0, abs=0.3), "a constant is no signal"
    assert decibels(wanted, wanted[:, :2]) == -math.inf
    hole = wanted.copy()
    hole[0, 0, 0, 0] = np.nan
    assert decibels(hole, hole) == math.inf
    assert decibels(wanted, hole) == -math.inf
    flat = np.full((1, 1, 4, 4), 5.0, np.float32)
    assert decibels(flat, flat * np.float32(1 + 1e-7)) > 100
    assert decibels(flat, flat * np.float32(1.01)) < 60
    assert decibels(0 * flat, flat) == -math.inf


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(20, 100))
def test_marks_tell_agreement(seed: int, agreement: float) -> None:
    rng = np.random.default_rng(seed)
    value = rng.normal(3.0, 2.0, (3, 31, 17))
    error = rng.normal(0.0, 1.0, value.shape)
    near = value + error * value.std() * 10 ** (-agreement / 20)
    marker = Marker()
    one, other = marker.mark(value), marker.mark(near)
    assert one.is_like(other, agreement - 6)
    assert not one.is_like(other, agreement + 16)
    assert not one.is_like(marker.mark(value[:2]), 0)
    assert culprit([], [one], 60) is None


def test_content_is_alike_nowhere() -> None:
    image, state = frame.content([(1, 6, 37, 53), (1, 2, 37, 53)])
    assert image.dtype == state.dtype == np.float32
    assert 0 <= image.min() < 0.2
    assert 0.8 < image.max() <= 1
    for turned in (image[:, :, ::-1], image[:, :, :, ::-1], image[:, ::-1]):
        assert decibels(image, turned) < 12
    assert np.array_equal(image, frame.content([(1, 6, 37, 53), (1, 2, 37, 53)])[0]), "seeded"


def test_a_constant_output_is_tried_with_255() -> None:
    class Far(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (super().forward(x) + 200).clamp(201, 400)

    assert load_model(Far(), width=20, height=14).check.decibels is not None


Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "command",
    [
        ("compile", "--accel", "tiny"),
        ("simulate", "--accel", "tiny", "--backend", "reference"),
        ("compare", "--accel", "tiny", "--backend", "reference"),
        ("explore", "--accel", "tiny", "--vary", "bus_bytes=8"),
    ],
    ids=lambda one: one[0],
)
def test_the_commands_tell(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    path = _written(tmp_path, "onnx", Twice())
    verb, *options = command
    code, out, err = run(verb, str(path), *options, "--size", "16x12")
    assert code == 0, err
    assert "import" in out
    assert " dB" in out or "every value equal" in out
    code, out, err = run(verb, str(path), *options, "--size", "16x12", "--json", "-")
    data = json.loads(out)
    found = data["simulation"]["import"] if verb == "compare" else data["import"]
    assert found["checked"]
    assert found["equal"] or found["decibels"] > 100
    assert found["frame"] == "53x37"
    assert "NOT CHECKED" not in err
    code, out, err = run(verb, str(path), *options, "--size", "16x12", "--no-import-check")
    assert code == 0, err
    assert "NOT CHECKED" in out
    code, out, err = run(verb, str(path), *options, "--size", "16x12", "--no-import-check", "--json", "-")
    assert "NOT CHECKED" in err
    data = json.loads(out)
    found = data["simulation"]["import"] if verb == "compare" else data["import"]
    assert not found["checked"]
    assert found["text"] == "NOT CHECKED"


def test_what_was_not_checked_is_red() -> None:
    from codesign.cli.console import import_text

    model: ImportedModel = load_model(Net(), width=20, height=14, check=False)
    text = import_text(model.check.to_json())
    assert "red" in str(text.style)
    assert from_module(model.module).nodes


def test_the_report_tells(run: Run, tmp_path: Path) -> None:
    path = _written(tmp_path, "onnx", Twice())
    options = ("--accel", "tiny", "--backend", "reference", "--size", "16x12", "--report", str(tmp_path / "report"))
    assert run("compare", str(path), *options)[0] == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "beside ONNX Runtime" in page
    assert run("compare", str(path), *options, "--no-import-check")[0] == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert '<strong class="alarm">import: NOT CHECKED</strong>' in page
