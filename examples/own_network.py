"""A torch network of your own on Scanline: compile it, run a frame on the RTL, read its cost."""

from __future__ import annotations

import torch

from codesign.energy.account import account
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import simulate
from codesign.workflows.sources import find


class Sharpen(torch.nn.Module):
    """Three thin layers around a skip: luma in, luma out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 16, 3, padding=1)
        self.second = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.last = torch.nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        h = torch.relu(self.second(h))
        return x + self.last(h)


def main() -> None:
    torch.manual_seed(0)
    compiled = compile_source(find(Sharpen()), "tiny", FrameChoice((48, 32)))
    result = simulate(compiled)
    bill = account(result.counters, result.spec)
    print(f"{result.macs:,} MACs in {result.counters.cycles:,} cycles: {result.mac_utilization:.0%} of the array")
    print(f"bit-exact: {result.bit_exact}; {bill.system_j.value * 1e6:.2f} µJ a frame")


if __name__ == "__main__":
    main()
