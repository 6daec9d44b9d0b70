"""What the browser tests wait for and do in common."""

import time
from collections.abc import Callable

import numpy as np
from playwright.sync_api import Page, expect


def wait_for(page: Page, what: str, condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        page.wait_for_timeout(200)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def loudness(page: Page) -> float:
    """The 95th percentile over the half second noted last; not by the clock, which drifts on a starved machine."""
    levels = page.evaluate("window.knotcastProbe.sound.slice(-188).map(([, rms]) => rms)")
    return float(np.percentile(levels, 95)) if levels else 0.0


def hang_up(page: Page) -> None:
    page.get_by_role("button", name="Hang up").click()
    expect(page.get_by_role("button", name="Call", exact=True)).to_be_visible()
