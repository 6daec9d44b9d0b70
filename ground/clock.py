"""Monotonic clock shared by all processes of a machine (CLOCK_MONOTONIC), in seconds.

Code that depends on time takes a ``Clock`` (or ``now``) as an argument, so that tests can pass their own.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]

monotonic: Clock = time.monotonic
