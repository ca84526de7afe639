"""Does dense flow stabilise a shaken clip? Claimed: 95 % less jitter.

A known shake, new in every frame, is added to a camera's even path, so that the remaining shake is known too. The
stabiliser sees only the shaken frames: the median of the dense flow between neighbours is the camera's motion, the sum
of the motions is its path, and each frame is moved to the smoothed path. The measure is the jitter of the true path
before and after: the root mean square of its second differences, in pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.metrics.motion import jitter, sampled
from codesign.pictures.images import Reals
from codesign.studies.clips import Clip, FlowOf, over_photograph
from codesign.workflows.watch import Say, silent

CLAIM = -0.95
SMOOTH_FRAMES = 8.0
"""Standard deviation of the smoothing of the path."""


@dataclass(frozen=True)
class Stabilised:
    """Jitters are of the true camera path, in pixels a frame squared."""

    source: str
    frames: int
    size: tuple[int, int]
    shake_pixels: float
    flow: str
    jitter_before: float
    jitter_after: float
    jitter_even: float  # jitter of the path without the shake
    step_error_pixels: float  # root mean square error of the estimated motion between frames

    @property
    def change(self) -> float:
        """Relative change of the jitter; -0.95 is claimed."""
        return self.jitter_after / self.jitter_before - 1.0

    @property
    def holds(self) -> bool:
        return self.change <= CLAIM

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "change": self.change,
            "claimed_change": CLAIM,
            "holds": self.holds,
            "evidence": "measured",
        }


def shaken(size: tuple[int, int], frames: int, shake: float, seed: int = 3) -> tuple[Clip, NDArray[np.float64]]:
    """A clip by a camera that pans over the photograph along an arc and shakes by ``shake`` pixels; and its even
    path."""
    rng = np.random.default_rng(seed)
    phase = np.linspace(-1.0, 1.0, frames)
    even = np.stack([40.0 * phase, 25.0 * phase**2 - 12.0], 1)
    return over_photograph(size, even + rng.normal(0.0, shake, (frames, 2))), even


def stabilise(
    clip: Clip, even: NDArray[np.float64], shake: float, flow: FlowOf, flow_name: str, *, say: Say = silent
) -> tuple[Stabilised, list[Reals]]:
    """Stabilise a clip whose true path is known; returns the result and the frames."""
    assert clip.path is not None
    steps = [np.zeros(2)]
    for index in range(1, len(clip.frames)):
        say(f"flow of frame {index + 1} of {len(clip.frames)}")
        found = flow(clip.frames[index - 1], clip.frames[index])
        steps.append(-np.median(found.reshape(2, -1), axis=1).astype(np.float64))  # the scene moves against the camera
    path = np.cumsum(steps, axis=0)
    correction = smoothed(path) - path
    made = []
    for frame, (right, down) in zip(clip.frames, correction, strict=True):
        height, width = frame.shape[:2]
        moved, _ = sampled(frame, np.stack([np.full((height, width), right), np.full((height, width), down)]))
        made.append(moved)
    true_steps = np.diff(clip.path, axis=0)
    error = float(np.sqrt(np.mean(((np.diff(path, axis=0) - true_steps) ** 2).sum(1))))
    result = Stabilised(
        clip.source,
        len(clip.frames),
        clip.size,
        shake,
        flow_name,
        jitter(clip.path),
        jitter(clip.path + correction),
        jitter(even),
        error,
    )
    return result, made


def smoothed(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """``path [frames, 2]`` smoothed over a few frames; beyond its ends it is extrapolated linearly."""
    from scipy.ndimage import gaussian_filter1d

    count = len(path)
    line = np.linspace(0.0, 1.0, count)[:, None] * (path[-1] - path[0]) + path[0]
    reach = int(4 * SMOOTH_FRAMES)
    odd = np.concatenate([-(path - line)[reach:0:-1], path - line, -(path - line)[-2 : -reach - 2 : -1]])
    smooth = gaussian_filter1d(odd, SMOOTH_FRAMES, axis=0)
    return np.asarray(smooth[min(reach, count - 1) :][:count] + line)
