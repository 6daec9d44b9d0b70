"""Monotonic clock shared by all processes of a machine (CLOCK_MONOTONIC), in seconds.

Whatever decides about time takes a ``Clock`` (or ``now``) as an argument, so that tests pass their own.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]

monotonic: Clock = time.monotonic
