"""Head turn estimator: one ridge regression on the gradients of an aligned crop.

The scale is the rig's: its fit (`training.data.video.turn_fit`) saw portraits turned by the rig, not skulls. Of 798
real portraits the 16 read as most turned (0.16 to 0.26 rad) are turned, to the side that was read, by some 15 to 25
degrees to the eye. Good for telling turned heads from straight ones; no measurement of pose. Knows no video.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from engine.portrait.landmarks import FACE
from engine.portrait.patches import Floats, Image, describe

WEIGHTS = Path(__file__).resolve().parents[3] / "models" / "weights" / "video" / "turn.safetensors"


@dataclass(frozen=True, slots=True)
class TurnEstimator:
    """weight [d, 2] and bias [2] of the regression of yaw and pitch."""

    weight: Floats
    bias: Floats

    def read(self, crop: Image) -> tuple[float, float]:
        """Yaw and pitch (rad in the rig's scale, signs as in ground.motion) of a crop in the canonical framing."""
        yaw, pitch = (describe(crop, FACE) @ self.weight + self.bias).tolist()
        return yaw, pitch


@lru_cache(maxsize=1)
def default_turn_estimator() -> TurnEstimator:
    """The shipped estimator, read once."""
    tensors = load_file(WEIGHTS)
    return TurnEstimator(tensors["weight"].astype(np.float32), tensors["bias"].astype(np.float32))
