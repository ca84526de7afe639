"""The reference networks: counts, export, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from codesign import networks
from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import run
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.calibration import PIXELS
from codesign.compile.quantise.finetune import fine_tune, teach
from codesign.compile.quantise.quantise import calibrate
from codesign.hw.errors import InputError
from codesign.metrics import degrade, luma_psnr, psnr, set5
from codesign.networks.basicvsr import BasicVsr
from codesign.pictures import images
from codesign.workflows.frames import calibration_frames, photographs

COMMAND_LINE = [
    "bicubic_x2",
    "espcn_x3",
    "fsrcnn_x2",
    "sesr_m5_x2",
    "abpn_x3",
    "quicksrnet_m_x3",
    "edsr_f32b5_x2",
    "srvgg16_x4",
    "dncnn17",
]

# Thousands of parameters, and GMAC at a size, of the definitions as their papers give them.
COUNTS = [
    ("espcn_x4", 24.8, 22.7, (1280, 720)),
    ("sesr_m5_x2", 13.6, 12.5, (1280, 720)),
    ("sesr_m5_x4", 18.4, 16.9, (1280, 720)),
    ("sesr_m11_x2", 27.5, 25.2, (1280, 720)),
    ("sesr_m11_x4", 32.4, 29.6, (1280, 720)),
    ("abpn_x3", 42.5, 39.0, (1280, 720)),
    ("quicksrnet_s_x3", 27.0, 25.0, (1280, 720)),
    ("quicksrnet_m_x3", 55.0, 50.0, (1280, 720)),
    ("quicksrnet_l_x3", 424.0, 390.0, (1280, 720)),
    ("edsr_f32b5_x2", 141.0, 73.9, (960, 540)),
    ("srvgg16_x4", 621.424, 571.0, (1280, 720)),
    ("srvgg32_x4", 1213.0, 1114.0, (1280, 720)),
    ("dncnn17", 556.0, 512.0, (1280, 720)),
    ("edsr_baseline_x4", 1517.6, 1828.0, (1280, 720)),
    ("rrdbnet_x4", 16_698.0, 16_521.0, (1280, 720)),
    ("rrdbnet_x4", 16_698.0, 9_293.0, (960, 540)),
    ("rrdbnet6_x4", 4_468.0, 5_259.0, (1280, 720)),
    ("spynet", 1440.3, 146.7, (1024, 448)),
    ("nafnet32", 17_112.0, 16.0, (256, 256)),
    ("pwcnet", 9_374.3, 84.1, (1024, 448)),
    ("raft_small", 990.2, 84.6, (1024, 440)),
    ("rife", 10_071.6, 119.0, (1280, 720)),  # the paper's 10.7 M have the block that only trains
]

OPERATORS = {
    "conv2d",
    "conv_transpose2d",
    "prelu",
    "relu",
    "clamp",
    "tanh",
    "add",
    "sub",
    "pixel_shuffle",
    "repeat",
    "repeat_interleave",
    "cat",
    "leaky_relu",
    "mul",
}


def frame(name: str, width: int = 64, height: int = 64) -> torch.Tensor:
    """A crop of the photograph as an input of the network."""
    real = images.to_real(images.fit(images.reference_photograph(), width, height))
    planes = images.luma(real)[None] if networks.get(name).channels == 1 else real.transpose(2, 0, 1)
    return torch.from_numpy(planes[None].astype(np.float32))


def photograph_psnr(name: str, photograph: np.ndarray) -> float:
    truth = images.luma(images.to_real(images.crop_to_multiple(photograph, 2)))
    low = torch.from_numpy(degrade(truth, 2).astype(np.float32)[None, None])
    return luma_psnr(networks.load(name)(low)[0, 0].double().numpy(), truth, 2)


@pytest.mark.parametrize(("name", "thousands", "gmac", "size"), COUNTS)
def test_counts(name: str, thousands: float, gmac: float, size: tuple[int, int]) -> None:
    network = networks.get(name)
    module = network.build()
    assert networks.parameters(module) / 1e3 == pytest.approx(thousands, rel=0.012)
    assert networks.count_macs(module, *size, network.channels) / 1e9 == pytest.approx(gmac, rel=0.01)


def test_counts_of_raft() -> None:
    """Published counts include the mask of the up-sampling in each of the 12 iterations; only one is read."""
    module = networks.get("raft").build()
    assert networks.parameters(module) / 1e6 == pytest.approx(5.26, rel=0.001)
    mask = (1024 // 8) * (440 // 8) * sum(layer.weight.numel() for layer in (module.mask1, module.mask2))
    assert (networks.count_macs(module, 1024, 440, 6) + 11 * mask) / 1e9 == pytest.approx(368.0, rel=0.001)


def test_counts_of_a_clip() -> None:
    """Ten frames of BasicVSR have nine flows each way: 373 GMAC a frame."""
    module = BasicVsr(10)
    assert networks.parameters(module) / 1e6 == pytest.approx(6.29, rel=0.001)
    assert networks.count_macs(module, 320, 180, 30) / 10e9 == pytest.approx(373.0, rel=0.005)


def test_fsrcnn_has_the_weights_of_its_paper() -> None:
    """The paper's 12,464 are the kernels, without biases and slopes."""
    module = networks.get("fsrcnn_x2").build()
    kernels = sum(
        layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    )
    assert kernels == 12_464
    assert networks.count_macs(module, 1280, 720) / 1e9 == pytest.approx(11.5, rel=0.01)


def test_counting_leaves_the_network_alone() -> None:
    module = networks.load("sesr_m5_x2")
    before = module(frame("sesr_m5_x2"))
    assert networks.count_macs(module, 8, 6) == 48 * 13_520
    assert torch.equal(module(frame("sesr_m5_x2")), before)


class Gram(nn.Module):
    """Products of all pairs of pixels are counted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(x.shape[1], -1)
        return flat.transpose(0, 1) @ flat


def test_macs_of_single_layers() -> None:
    assert networks.count_macs(nn.Conv2d(4, 6, 3, padding=1, groups=2), 5, 7) == 5 * 7 * 9 * 4 * 6 // 2
    assert networks.count_macs(nn.Conv2d(4, 6, 3, stride=2, padding=1), 5, 7) == 3 * 4 * 9 * 4 * 6
    assert networks.count_macs(nn.ConvTranspose2d(4, 1, 9, stride=2, padding=4), 5, 7) == 5 * 7 * 81 * 4
    product = nn.Sequential(nn.Conv2d(1, 3, 1), Gram())
    assert networks.count_macs(product, 5, 7) == 35 * 3 + 35 * 35 * 3
    with pytest.raises(InputError):
        networks.count_macs(nn.ReLU(), 5, 7)
    with pytest.raises(InputError):
        networks.count_macs(nn.Conv2d(1, 1, 1), 0, 7)


def test_the_catalogue_names_itself() -> None:
    names = [network.name for network in networks.catalogue()]
    assert len(names) == len(set(names))
    assert set(COMMAND_LINE) <= set(names)
    for network in networks.catalogue():
        assert networks.get(network.name).reference == network.reference
    assert {network.name for network in networks.catalogue() if network.trained} == {
        "bicubic_x2",
        "sesr_m5_x2",
        "flow_small",
    }


@pytest.mark.parametrize("name", ["sesr_m5", "sesr_m6_x2", "espcn_x9", "edsr_x2", "", "dncnn17_x2", "../weights"])
def test_unknown_names_get_a_suggestion(name: str) -> None:
    with pytest.raises(InputError, match="Did you mean"):
        networks.get(name)


def test_the_suggestion_is_near() -> None:
    with pytest.raises(InputError, match="espcn_x4"):
        networks.load("epscn_x4")


@pytest.mark.parametrize("name", [*COMMAND_LINE, "fsrcnn_x2_subpixel1", "espcn_x4", "abpn_x2", "edsr_f32b5_x3"])
def test_export_gives_a_clean_static_graph(name: str) -> None:
    network = networks.get(name)
    example = frame(name, 19, 13)
    exported = torch.export.export(networks.load(name), (example,))
    calls = [str(node.target).split(".")[1] for node in exported.graph.nodes if node.op == "call_function"]
    assert set(calls) <= OPERATORS
    shape = (1, network.channels, 13 * network.scale, 19 * network.scale)
    assert exported.module()(example).shape == shape


@pytest.mark.parametrize(
    "network",
    [n for n in networks.catalogue() if not n.trained and n.images == 1],
    ids=lambda network: network.name,
)
def test_seeded_networks_are_repeatable_and_keep_the_picture(network: networks.Network) -> None:
    module = networks.load(network.name)
    for ours, again in zip(module.parameters(), networks.load(network.name).parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, again)
    spreads: list[float] = []
    codes: list[int] = []

    def watch(_layer: nn.Module, _inputs: object, out: torch.Tensor) -> None:
        if out.shape[2:] == (1, 1):  # an attention's: one pixel has no spread
            return
        spreads.append(float(out.std(dim=(2, 3)).mean()))
        codes.append(len(torch.unique(torch.round((out - out.min()) / (out.max() - out.min()) * 255.0))))

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(watch)
    given = frame(network.name)
    output = module(given)
    assert min(spreads[:-1]) > 0.1  # over the picture, channel by channel
    assert max(spreads) < 0.5
    assert min(codes) >= 32
    assert -0.5 < output.min() < output.max() < 1.5
    near = nn.functional.interpolate(given, scale_factor=network.scale)
    assert psnr(output[0, 0].double().numpy(), near[0, 0].double().numpy()) > 18.0


def clip(images_: int, width: int = 96, height: int = 64) -> torch.Tensor:
    """The photograph, moved a little from image to image: ``[1, 3 images, H, W]``."""
    first = frame("edsr_f32b5_x2", width, height)
    return torch.cat([first.roll((2 * i, 3 * i), (2, 3)) for i in range(images_)], 1)


@pytest.mark.parametrize("name", ["spynet", "pwcnet", "raft_small"])
def test_a_seeded_flow_network_is_lively(name: str) -> None:
    module = networks.load(name)
    if name == "raft_small":  # once is enough: seeds are drawn from names
        again = networks.load(name)
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))
    for width, height in ((96, 64), (61, 47)):
        flow = module(clip(2, width, height))
        assert flow.shape == (1, 2, height, width)
        assert 0.01 < float(flow.std()) < 20.0
        assert float(flow.abs().max()) < 100.0


@pytest.mark.parametrize("name", ["raft", "raft_small"])
def test_a_seeded_recurrence_passes_small_changes_on_as_small_ones(name: str) -> None:
    """A seeded network does not amplify small changes; otherwise its error would not measure quantisation."""
    module, given = networks.load(name), clip(2)
    signs = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], given.shape)).float()
    with torch.no_grad():
        flow, moved = module(given), module(given + 1e-4 * signs)
    assert 0.0 < float((moved - flow).square().mean().sqrt()) < 0.03 * float(flow.square().mean().sqrt())


def test_a_seeded_interpolation_is_a_picture() -> None:
    module = networks.load("rife")
    for width, height in ((96, 64), (61, 47)):
        between = module(clip(2, width, height))
        assert between.shape == (1, 3, height, width)
        assert 0.05 < float(between.std()) < 0.5
        assert 0.0 <= float(between.min()) < 0.1
        assert 0.7 < float(between.max()) <= 1.0


def test_a_clip_is_read_both_ways() -> None:
    """Every output frame depends on every input frame, and equals its enlarged frame if the last layer adds nothing."""
    torch.manual_seed(2)
    module = BasicVsr(3, features=8, blocks=2).eval()
    given = clip(3, 40, 33)
    with torch.no_grad():
        made = module(given)
        assert made.shape == (1, 9, 132, 160)
        for changed in range(3):
            other = given.clone()
            other[:, 3 * changed : 3 * changed + 3] += 0.1
            differs = (module(other) - made).abs().reshape(3, -1).amax(1)
            assert (differs > 1e-5).all()
        module.last.weight.zero_()
        module.last.bias.zero_()
        plain = nn.functional.interpolate(given, scale_factor=4, mode="bilinear")
        assert torch.allclose(module(given), plain, atol=1e-6)


def test_seeds_differ_by_name() -> None:
    first, second = (networks.load(name).first.weight for name in ("sesr_m5_x3", "sesr_m5_x4"))
    assert not torch.equal(first, second)


def test_bicubic_equals_the_resize_inside() -> None:
    for scale in (2, 3, 4):
        given = frame("bicubic_x2", 20, 15)
        whole = images.resize(given[0, 0].double().numpy(), 20 * scale, 15 * scale)
        ours = networks.load(f"bicubic_x{scale}")(given)[0, 0].double().numpy()
        inside = slice(2 * scale, -2 * scale)
        np.testing.assert_allclose(ours[inside, inside], whole[inside, inside], atol=1e-6)


def test_the_trained_network_beats_bicubic_on_photographs() -> None:
    from skimage import data

    for photograph in (images.reference_photograph(), np.asarray(data.coffee()), np.asarray(data.chelsea())):
        assert photograph_psnr("sesr_m5_x2", photograph) > photograph_psnr("bicubic_x2", photograph) + 1.0


def test_the_trained_network_on_set5(data_dir: Path) -> None:
    module = networks.load("sesr_m5_x2")
    assert set5(lambda low: module(torch.from_numpy(low)).numpy(), data_dir, 2)["mean"] >= 37.2


@pytest.mark.timeout(900)
def test_int8_loses_little_on_set5(data_dir: Path) -> None:
    """The project's bounds: 0.25 dB after calibration, 0.15 dB after fine-tuning."""
    module = networks.load("sesr_m5_x2")
    model = load_model(module, width=64, height=64, channels=1)
    result = calibrate(model.module, calibration_frames(1, 2), "percentile", output_params=PIXELS).quantised()
    patches = photographs(1, 2, limit=200, folder=data_dir / "bsds" / "train")
    tuned = fine_tune(result.module, teach(result.source, patches), steps=300, loss="l2", start=result.source)

    def quality(quantised: Any) -> float:
        graph = from_module(quantised)
        return set5(lambda low: run(graph, torch.from_numpy(low)).numpy(), data_dir, 2)["mean"]

    with torch.no_grad():
        full = set5(lambda low: module(torch.from_numpy(low)).numpy(), data_dir, 2)["mean"]
        assert full - quality(result.module) <= 0.25
        assert full - quality(tuned) <= 0.15


def test_published_fsrcnn(data_dir: Path) -> None:
    module = networks.load("fsrcnn_x2_subpixel1", data_dir / "weights" / "fsrcnn_x2.npz")
    mean = set5(lambda low: module(torch.from_numpy(low)).numpy(), data_dir, 2)["mean"]
    assert mean == pytest.approx(34.82, abs=0.03)


def test_published_spynet(data_dir: Path) -> None:
    """Its own weights on a Sintel pair: 0.76 px from PWC-Net's flow, sides resized to multiples of 32."""
    module = networks.load("spynet", data_dir / "weights" / "spynet_sintel_final.npz")
    pair = [images.to_real(images.load_image(data_dir / "sintel" / f"frame_00{i}.png")) for i in (10, 11)]
    stacked = torch.from_numpy(np.concatenate(pair, axis=2).transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad():
        flow = module(stacked)[0].numpy()
    raw = (data_dir / "sintel" / "pwcnet_reference_0010.flo").read_bytes()
    reference = np.frombuffer(raw[12:], "<f4").reshape(*flow.shape[1:], 2).transpose(2, 0, 1)
    assert np.hypot(*(flow - reference)).mean() == pytest.approx(0.76, abs=0.01)


def test_published_srvgg(data_dir: Path) -> None:
    module = networks.load("srvgg16_x4", data_dir / "weights" / "realesr_animevideov3_x4.npz")
    truth = images.to_real(images.reference_photograph()[100:228, 150:278])
    low = degrade(truth, 4).transpose(2, 0, 1)[None].astype(np.float32)
    output = module(torch.from_numpy(low))[0].permute(1, 2, 0).double().numpy()
    assert psnr(output, truth) > 20.0


def test_weights_come_back_from_files(tmp_path: Path) -> None:
    module = networks.load("espcn_x2")
    state = {name: tensor * 0.5 for name, tensor in module.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    torch.save({"params": state}, tmp_path / "nested.pth")
    np.savez(tmp_path / "a.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    for name in ("a.pt", "nested.pth", "a.npz"):
        loaded = networks.load("espcn_x2", tmp_path / name)
        assert not loaded.training
        assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("name", [one.name for one in networks.catalogue() if one.family != "bicubic"])
def test_a_networks_own_state_dictionary_comes_back(name: str, tmp_path: Path) -> None:
    """Names of this project's layers must not be taken for those of a published file."""
    state = networks.get(name).build().state_dict()
    torch.save(state, tmp_path / "own.pth")
    loaded = networks.load(name, tmp_path / "own.pth").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_wrong_weights_name_the_tensor(tmp_path: Path) -> None:
    def saved(**changes: torch.Tensor | None) -> Path:
        state = networks.load("espcn_x2").state_dict() | {key.replace("__", "."): new for key, new in changes.items()}
        torch.save({key: tensor for key, tensor in state.items() if tensor is not None}, tmp_path / "a.pt")
        return tmp_path / "a.pt"

    with pytest.raises(InputError, match=r"conv2\.bias"):
        networks.load("espcn_x2", saved(conv2__bias=None))
    with pytest.raises(InputError, match=r"conv2\.bias.*\[31\].*\[32\]"):
        networks.load("espcn_x2", saved(conv2__bias=torch.zeros(31)))
    with pytest.raises(InputError, match="finite"):
        networks.load("espcn_x2", saved(conv2__bias=torch.full((32,), torch.nan)))
    with pytest.raises(InputError, match="extra"):
        networks.load("espcn_x2", saved(extra=torch.zeros(1)))
    np.savez(tmp_path / "f.npz", f1=np.zeros((5, 5, 1, 56)))
    with pytest.raises(InputError, match="lacks the tensor"):
        networks.load("fsrcnn_x2_subpixel1", tmp_path / "f.npz")


class Rogue:
    """Runs code when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "change", [torch.Tensor.long, torch.Tensor.to_sparse, lambda tensor: tensor.to(torch.complex64)]
)
def test_weights_that_are_not_numbers_of_a_network(change: Any, tmp_path: Path) -> None:
    state = networks.load("espcn_x2").state_dict()
    first = next(iter(state))
    torch.save(state | {first: change(state[first])}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=f"{first}' is no dense tensor"):
        networks.load("espcn_x2", tmp_path / "a.pth")


def test_unreadable_weights_run_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        networks.load("espcn_x2", tmp_path / "absent.npz")
    for name in ("a.npz", "a.pt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 but not for long")
        with pytest.raises(InputError, match="not a readable weights file"):
            networks.load("espcn_x2", tmp_path / name)
    torch.save({"conv1.weight": Rogue(tmp_path / "ran")}, tmp_path / "rogue.pt")
    np.savez(tmp_path / "rogue.npz", a=np.array([Rogue(tmp_path / "ran")], object))
    for name in ("rogue.pt", "rogue.npz"):
        with pytest.raises(InputError):
            networks.load("espcn_x2", tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="state dictionary"):
        networks.load("espcn_x2", tmp_path / "list.pt")
    assert not (tmp_path / "ran").exists()
