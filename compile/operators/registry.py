"""Every operator that has a file here, by the name of its nodes."""

from __future__ import annotations

from collections.abc import Mapping

from codesign.compile.operators.all_pairs import AllPairs
from codesign.compile.operators.composite import Composite
from codesign.compile.operators.correlation import Correlation
from codesign.compile.operators.instance_norm import InstanceNorm
from codesign.compile.operators.pixel_unshuffle import PixelUnshuffle
from codesign.compile.operators.warp import Warp
from codesign.compile.operators.window import Window

COMPOSITES: Mapping[str, Composite] = {
    one.op: one for one in (PixelUnshuffle(), Warp(), Correlation(), Window(), AllPairs(), InstanceNorm())
}
"""In the order in which they are recognised: a window before the products that its volume is made of."""
