"""Voice tokens frame by frame, as `models.encoders.mel.LogMelConfig` says them: what faster ways are held against."""

import numpy as np
from numpy.typing import NDArray

from models.encoders.mel import LogMelConfig

FloatArray = NDArray[np.float32]


def frame_tokens(hops: FloatArray, frame: int, config: LogMelConfig, first_hop: int = 0) -> FloatArray:
    """Stack the hops around `frame` (which may be negative) into one token `[token_size]`, time-major.

    `hops[0]` is hop number `first_hop`. Hops before the start of the call are digital silence; a hop that should exist
    and is not in `hops` is a programmer's error.
    """
    begin = config.hops_per_frame * frame - config.hops_before
    end = config.hops_per_frame * frame + config.hops_from
    assert end <= first_hop + len(hops), f"frame {frame} needs hops up to {end}, have {first_hop + len(hops)}"
    assert max(begin, 0) >= first_hop or end <= 0, f"frame {frame} needs hops from {begin}, have from {first_hop}"
    token = np.full((end - begin, config.mels), config.silence, np.float32)
    if end > 0:
        known = hops[max(begin, 0) - first_hop : end - first_hop]
        token[len(token) - len(known) :] = known
    return token.reshape(-1)
