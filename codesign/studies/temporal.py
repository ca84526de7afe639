"""Does flow between frames take the flicker out of restoration? Claimed: 80 % less warping error than frame by frame.

A clip is degraded like old film: half the size, and grain that is new in every frame. Frame by frame, the up-scaler
restores each frame alone, and the grain flickers. Flow-guided, the restored frame before is warped along the flow and
averaged in where it fits, recursively: grain averages out, the scene stays. This flow is estimated on the restored
frames; the flow of the measure comes from the clean frames. The measures are the mean square difference of a frame and
the next one warped back, where both see the same scene (Lai et al., ECCV 2018), and PSNR, since blurring would lower
the former too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codesign import networks
from codesign.metrics import degrade, psnr
from codesign.metrics.motion import sampled, visible, warping_error
from codesign.pictures import images
from codesign.pictures.images import Reals
from codesign.studies.clips import Clip, FlowOf
from codesign.workflows.watch import Say, silent

CLAIM = -0.80
SCALE = 2
UPSCALER = "sesr_m5_x2"

MOST_KEPT = 0.85
"""Largest weight of the warped frame before: an average over about seven frames."""


@dataclass(frozen=True)
class Temporal:
    """Warping errors are means over the clip, of luma in [0, 1], squared. ``truth`` is the error of the clean clip,
    which no restorer can avoid."""

    source: str
    frames: int
    size: tuple[int, int]
    grain: float  # standard deviation, on a scale of 255
    flow: str
    per_frame_error: float
    guided_error: float
    truth_error: float
    per_frame_db: float
    guided_db: float

    @property
    def change(self) -> float:
        """Relative change of the warping error by guidance; -0.8 is claimed."""
        return self.guided_error / self.per_frame_error - 1.0

    @property
    def change_of_flicker(self) -> float:
        """Relative change of the warping error above the clean clip's."""
        return (self.guided_error - self.truth_error) / (self.per_frame_error - self.truth_error) - 1.0

    @property
    def holds(self) -> bool:
        return self.change <= CLAIM

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "change": self.change,
            "change_of_flicker": self.change_of_flicker,
            "claimed_change": CLAIM,
            "holds": self.holds,
            "evidence": "measured",
        }


def temporal(
    clip: Clip, flow: FlowOf, flow_name: str, *, grain: float = 15.0, seed: int = 1, say: Say = silent
) -> Temporal:
    """Restore ``clip`` both ways and measure them. ``grain``: standard deviation of the noise, on a scale of 255."""
    frames = [images.crop_to_multiple(frame, SCALE) for frame in clip.frames]
    truth = [images.luma(frame) for frame in frames]
    restorer = networks.load(UPSCALER)
    rng = np.random.default_rng(seed)
    alone: list[Reals] = []
    for index, whole in enumerate(truth):
        say(f"restore frame {index + 1} of {len(truth)}")
        low = degrade(whole, SCALE)
        low = np.clip(low + rng.normal(0.0, grain / 255.0, low.shape), 0.0, 1.0)
        with torch.inference_mode():
            made = restorer(torch.from_numpy(low.astype(np.float32)[None, None]))[0, 0].numpy()
        alone.append(np.clip(made.astype(np.float64), 0.0, 1.0))
    guided = [alone[0]]
    for index in range(1, len(alone)):
        say(f"guide frame {index + 1} of {len(alone)}")
        guided.append(_guided(alone[index], guided[-1], flow, grain))
    errors = np.zeros(3)
    for index in range(len(frames) - 1):
        say(f"judge frame {index + 1} of {len(frames)}")
        there, back = flow(frames[index], frames[index + 1]), flow(frames[index + 1], frames[index])
        seen = visible(there, back)
        for kind, restored in enumerate((alone, guided, truth)):
            errors[kind] += warping_error(restored[index], restored[index + 1], there, seen) / (len(frames) - 1)
    quality = [
        float(np.mean([psnr(a, b, shave=SCALE) for a, b in zip(r, truth, strict=True)])) for r in (alone, guided)
    ]
    return Temporal(
        clip.source,
        len(frames),
        (frames[0].shape[1], frames[0].shape[0]),
        grain,
        flow_name,
        float(errors[0]),
        float(errors[1]),
        float(errors[2]),
        *quality,
    )


def _guided(now: Reals, before: Reals, flow: FlowOf, grain: float) -> Reals:
    """``now`` averaged with the warped result before, where the two differ by no more than grain."""
    here, there = (np.repeat(_calm(frame)[..., None], 3, axis=2) for frame in (now, before))
    moved, inside = sampled(before, flow(here, there))
    # Grain after the up-scaler is about as strong as in the degraded frame; its mean over 5 x 5 pixels is a fifth of
    # that.
    gap = _mean5(now - moved) / max(grain / 255.0, 1e-3)
    kept: NDArray[np.float64] = MOST_KEPT * np.exp(-4.0 * gap**2) * inside
    return np.asarray(kept * moved + (1.0 - kept) * now)


def _calm(frame: Reals) -> Reals:
    """A frame with less grain, on which flow is estimated."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(frame, 1.0))


def _mean5(values: Reals) -> Reals:
    from scipy.ndimage import uniform_filter

    return np.asarray(uniform_filter(values, 5))
