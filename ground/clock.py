"""The one clock: seconds of CLOCK_MONOTONIC, which every process of a machine shares and no one can set.

Whatever decides about time takes a ``Clock`` (or ``now``) as an argument, so that tests pass their own.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]

monotonic: Clock = time.monotonic
