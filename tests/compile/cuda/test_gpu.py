"""CUDA without a GPU: kernels are really compiled, modules really exported."""

from __future__ import annotations

import pytest
import torch

from codesign.compile.cuda.compile import compile_cuda
from codesign.compile.importing.model import load_model
from codesign.hw.errors import CodesignError, InputError
from codesign.kernels.runtime.nvrtc import ARCHITECTURES, compile_cuda_text


class Small(torch.nn.Module):
    """Every kind of layer that the reference networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 8, 5, padding=2)
        self.act = torch.nn.PReLU(8)
        self.body = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.last = torch.nn.Conv2d(8, 4, 3, padding=1)
        self.up = torch.nn.ConvTranspose2d(8, 1, 9, stride=2, padding=4, output_padding=1)
        self.shuffle = torch.nn.PixelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.first(x))
        h = torch.tanh(self.body(h)) + torch.relu(h)
        return torch.clamp(self.shuffle(self.last(h)) + self.up(h), 0.0, 1.0)


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(1)
    return load_model(Small(), width=24, height=16).module


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_compiles_and_exports(module, precision, tmp_path):
    compiled = compile_cuda(module, arch="sm_90a", precision=precision)
    assert len(compiled.kernels) >= 4
    assert all(0 < kernel.registers <= 255 for kernel in compiled.kernels)
    path = tmp_path / "net.so"
    compiled.export(path)
    # The library carries the kernels: machine code of ours, and of TVM's the text, which its loader compiles.
    assert compiled.kernels[0].name.encode() in path.read_bytes()


def test_one_network_in_two_precisions(module):
    half, single = compile_cuda(module, precision="fp16"), compile_cuda(module, precision="fp32")
    assert half.plan is not None
    assert single.plan is None
    assert not any(launch.kernel.encode() in single.source.encode() for launch in half.plan.launches)


def test_a_broken_kernel_fails_and_is_named(module):
    source = compile_cuda(module, precision="fp32").source
    head, _, body = source.rpartition("threadIdx.x")
    with pytest.raises(CodesignError, match=r"CUDA kernel \w+_kernel: does not compile"):
        compile_cuda_text(head + "threadIdx.nowhere" + body, "sm_90a")


def test_every_architecture_is_known_to_the_compiler():
    kernel = 'extern "C" __global__ void one(float* x) { x[threadIdx.x] = 1.0f; }'
    for arch in ARCHITECTURES:
        assert [k.name for k in compile_cuda_text(kernel, arch).kernels] == ["one"]


def test_unknown_architecture(module):
    with pytest.raises(InputError, match="sm_12"):
        compile_cuda(module, arch="sm_12")
