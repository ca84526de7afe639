"""Every way in gives the same canonical network, and bad files give one clear message."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from codesign.compile.importing.model import ImportedModel, load_model
from codesign.compile.ir.evaluate import run
from codesign.compile.ir.relax import from_module
from codesign.compile.ir.runnable import runnable
from codesign.hw.errors import InputError, UnsupportedError

WIDTH, HEIGHT = 11, 7


class Everything(nn.Module):
    """A network with one of each construction that canonicalisation handles."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.act = nn.PReLU(8)
        self.act.weight.data.uniform_(-0.2, 0.5)
        self.drop = nn.Dropout(0.5)
        self.padded = nn.Conv2d(8, 12, 3, bias=False)
        self.up = nn.ConvTranspose2d(12, 12, 9, 2, 4, output_padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
        y = self.drop(self.act(self.norm(self.first(x - mean))))
        y = F.leaky_relu(y, 0.1) - F.relu6(y) * 0.1
        y = torch.clamp(self.padded(F.pad(y, (1, 1, 1, 1))), -1, 1) / 2
        y = y + torch.repeat_interleave(x, 4, 1) + x.repeat(1, 4, 1, 1) + torch.cat([x] * 4, 1)
        z = self.shuffle(y) + F.interpolate(x, scale_factor=2, mode="nearest")
        return torch.tanh(z) + F.gelu(z) * F.silu(z) + self.up(y)[:, :3]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return Everything().eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))


def _onnx(network: nn.Module, path: Path, channels: int = 3, **options: object) -> Path:
    torch.onnx.export(
        network,
        (torch.rand(1, channels, 8, 8),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        **options,
    )
    return path


def _agrees(model: ImportedModel, network: nn.Module, image: torch.Tensor) -> None:
    with torch.no_grad():
        expected = network(image)
        found = run(from_module(model.module), image)
    assert model.input_shape == tuple(image.shape)
    assert model.output_shape == tuple(expected.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_module(network: nn.Module, image: torch.Tensor) -> None:
    model = load_model(network, width=WIDTH, height=HEIGHT)
    _agrees(model, network, image)
    operators = {node.op for node in from_module(model.module).nodes}
    assert operators <= {
        *("nn.conv2d", "nn.conv2d_transpose", "add", "subtract", "multiply", "nn.prelu", "nn.leakyrelu", "clip"),
        *("repeat", "tile", "nn.pixel_shuffle", "table", "strided_slice"),
    }
    names = [node.name for node in from_module(model.module).nodes]
    assert {"first", "first.bias", "act", "padded"} <= set(names)
    assert not model.quantised


def test_training_mode_is_left_alone(image: torch.Tensor) -> None:
    network = Everything().train()
    model = load_model(network, width=WIDTH, height=HEIGHT)
    assert network.training
    _agrees(model, network.eval(), image)


def test_saved_program_static_and_dynamic(network: nn.Module, image: torch.Tensor, tmp_path: Path) -> None:
    dims = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    torch.export.save(
        torch.export.export(network, (torch.rand(1, 3, 20, 22),), dynamic_shapes=(dims,)), tmp_path / "d.pt2"
    )
    _agrees(load_model(tmp_path / "d.pt2", width=WIDTH, height=HEIGHT), network, image)
    torch.export.save(torch.export.export(network, (image,)), tmp_path / "s.pt2")
    _agrees(load_model(tmp_path / "s.pt2", width=WIDTH, height=HEIGHT), network, image)
    with pytest.raises(InputError, match="fixed to 11x7"):
        load_model(tmp_path / "s.pt2", width=12, height=HEIGHT)
    with pytest.raises(InputError, match="takes 3 channels"):
        load_model(tmp_path / "s.pt2", width=WIDTH, height=HEIGHT, channels=1)


def test_onnx(network: nn.Module, image: torch.Tensor, tmp_path: Path) -> None:
    path = _onnx(network, tmp_path / "net.onnx", dynamic_axes={"x": {2: "h", 3: "w"}})
    model = load_model(path, width=WIDTH, height=HEIGHT)
    _agrees(model, network, image)
    assert any(node.name == "/first/Conv" for node in from_module(model.module).nodes)
    fixed = _onnx(network, tmp_path / "fixed.onnx")
    with pytest.raises(InputError, match="fixed to 8x8"):
        load_model(fixed, width=WIDTH, height=HEIGHT)
    with pytest.raises(InputError, match="takes 3 channels, the image has 1"):
        load_model(path, width=WIDTH, height=HEIGHT, channels=1)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_orders(mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(12, 2, 3, 3)).astype(np.float32)
    bias = rng.normal(size=12).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["c", "s"], ["p"]),
        helper.make_node("DepthToSpace", ["p"], ["y"], blocksize=2, mode=mode),
        helper.make_node("SpaceToDepth", ["y"], ["z"], blocksize=2),
    ]
    slope = rng.normal(size=(12, 1, 1)).astype(np.float32)
    constants = {"w": weight, "b": bias, "s": slope}
    path = _save(tmp_path / "d2s.onnx", nodes, constants, (1, 2, "h", "w"), "z")
    model = load_model(path, width=6, height=4)
    image = torch.rand(1, 2, 4, 6)
    import onnxruntime

    expected = onnxruntime.InferenceSession(path).run(None, {"x": image.numpy()})[0]
    np.testing.assert_allclose(run(from_module(model.module), image).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert [node.op for node in from_module(model.module).nodes].count("nn.pixel_shuffle") == 1


def _save(
    path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: tuple[object, ...], output: str
) -> Path:
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", "c", "i", "j"])
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", [source], [result], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())
    return path


def test_the_module_builds(network: nn.Module, image: torch.Tensor) -> None:
    import tvm
    from tvm import relax

    model = load_model(network, width=WIDTH, height=HEIGHT)
    machine = relax.VirtualMachine(relax.build(runnable(model.module), "llvm"), tvm.cpu())
    found = machine["main"](tvm.runtime.tensor(image.numpy())).numpy()
    np.testing.assert_allclose(found, network(image).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_unsupported_operator_is_named(tmp_path: Path) -> None:
    path = _save(tmp_path / "odd.onnx", [helper.make_node("Det", ["x"], ["y"], name="the_det")], {}, (1, 1, 4, 4), "y")
    with pytest.raises(UnsupportedError, match="Det 'the_det'"):
        load_model(path, width=4, height=4)


@pytest.mark.parametrize(("width", "height"), [(0, 4), (4, 0), (-1, 4), (65537, 1), (65536, 65536)])
def test_frame_sizes(width: int, height: int) -> None:
    with pytest.raises(InputError):
        load_model(nn.Conv2d(1, 1, 1), width=width, height=height)


def test_wrong_channel_count() -> None:
    with pytest.raises(InputError, match="does not take"):
        load_model(nn.Conv2d(3, 4, 1), width=4, height=4, channels=1)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04nonsense"])
def test_damaged_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_model(path, width=4, height=4)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        load_model(tmp_path / f"absent{suffix}", width=4, height=4)


def test_truncated_files(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    torch.export.save(torch.export.export(network, (torch.rand(1, 3, 8, 8),)), tmp_path / "net.pt2")
    _onnx(network, tmp_path / "net.onnx")
    for name in ("net.pt2", "net.onnx"):
        content = (tmp_path / name).read_bytes()
        for share in (0.3, 0.7, 0.95):
            (tmp_path / f"cut_{name}").write_bytes(content[: int(len(content) * share)])
            with pytest.raises(InputError):
                load_model(tmp_path / f"cut_{name}", width=8, height=8)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)


def test_pickles_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pt").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(InputError, match="pickled"):
        load_model(tmp_path / "net.pt", width=8, height=8)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("location", ["../data.bin", "/etc/hostname", "sub/../../data.bin", "link.bin", "absent.bin"])
def test_external_data_stay_in_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "data.bin").write_bytes(np.ones((4, 1, 1, 1), np.float32).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "data.bin")
    path = _save(
        folder / "net.onnx",
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        {"w": np.ones((4, 1, 1, 1), np.float32)},
        (1, 1, "h", "w"),
        "y",
    )
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="external data"):
        load_model(path, width=4, height=4)


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "net.onnx",
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        {"w": np.full((4, 1, 1, 1), 2, np.float32)},
        (1, 1, "h", "w"),
        "y",
    )
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    image = torch.rand(1, 1, 4, 5)
    model = load_model(path, width=5, height=4)
    torch.testing.assert_close(run(from_module(model.module), image), image.repeat(1, 4, 1, 1) * 2)
