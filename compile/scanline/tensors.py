"""Feature maps as the machine holds them: 8-bit codes, 16-bit values in byte planes, tensors that serve as weights."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.hw.numerics import ceil_div, round_up
from codesign.hw.spec import AccelSpec


@dataclass(frozen=True)
class Tensor:
    """A feature map of 8-bit or 16-bit values; real = scale x (q - zero_point).

    A 16-bit tensor lies in byte planes (``numerics.byte_planes``): it has a channel for every byte, high bytes first.
    """

    name: str
    height: int
    width: int
    channels: int  # bytes per pixel
    scale: float
    zero_point: int
    bits: int = 8
    as_weights: bool = False
    """It lies in memory as a layer's weights: by group of channels, pixel by pixel, the last word filled up."""

    @property
    def planes(self) -> int:
        """Bytes per value."""
        return self.bits // 8

    @property
    def values(self) -> int:
        """Values per pixel."""
        return self.channels // self.planes

    def groups(self, spec: AccelSpec) -> int:
        """Channel groups per pixel."""
        return ceil_div(self.channels, spec.ci_lanes)

    def group_bytes(self, spec: AccelSpec) -> int:
        """Bytes of one channel group of the whole frame, where the tensor lies as weights."""
        return round_up(self.height * self.width, spec.co_lanes) * spec.ci_lanes

    def bytes(self, spec: AccelSpec) -> int:
        """Bytes in memory."""
        if self.as_weights:
            return self.groups(spec) * self.group_bytes(spec)
        return self.height * self.width * self.channels
