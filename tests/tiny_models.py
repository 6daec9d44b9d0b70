"""Tiny video models with random weights, for tests of all that a call with a large one passes through on any machine.

Importing this module adds them to the table of models; tests.conftest and the programs below tests/ do.
"""

import sys
from dataclasses import replace

from models.config import (
    CONFIGS,
    FLASHHEAD_LITE,
    FLASHHEAD_PRO,
    WAN21_1_3B,
    WAN21_T2V,
    AudioConfig,
    LTXConfig,
    VAEConfig,
)

WAN_TINY_TEST = replace(
    WAN21_1_3B, name="wan-tiny-test", fps=16, latent_size=(16, 16), pixel_size=(128, 128),
    vae=VAEConfig(width=4, tiny_widths=(32, 16, 16, 16)),
    dit=replace(
        WAN21_1_3B.dit, dim=48, layers=2, heads=2, ffn_dim=96, text_dim=24, drive_blocks=(0,), frequency_dim=32,
    ),
)  # fmt: skip
"""All that a call with Wan2.1 passes through, small enough for any machine to test; there are random weights only."""

T2V_TINY_TEST = replace(
    WAN21_T2V, name="t2v-tiny-test", latent_size=(8, 8), pixel_size=(64, 64), vae=WAN_TINY_TEST.vae,
    dit=replace(WAN_TINY_TEST.dit, inpainting=False, drive_dim=0, drive_tokens=0, drive_blocks=()),
)  # fmt: skip
"""The same of text to video alone."""

FLASHHEAD_PRO_TINY_TEST = replace(
    FLASHHEAD_PRO, name="flashhead-pro-tiny-test", latent_size=(16, 16), pixel_size=(128, 128),
    vae=VAEConfig(width=4),
    dit=replace(
        FLASHHEAD_PRO.dit, dim=48, layers=2, heads=2, ffn_dim=96, frequency_dim=32,
        audio=AudioConfig(layers=2, width=16, hidden=24, tokens=4),
    ),
)  # fmt: skip
"""All that a call with FlashHead passes through, small enough for any machine to test; random weights only. The
voice's encoder is as small."""

FLASHHEAD_LITE_TINY_TEST = replace(
    FLASHHEAD_LITE, name="flashhead-lite-tiny-test", latent_size=(4, 4), pixel_size=(128, 128),
    ltx=LTXConfig(widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1, 1)),
    dit=replace(
        FLASHHEAD_PRO_TINY_TEST.dit, latent_channels=128, reference_channels=128,
        audio=AudioConfig(layers=2, width=16, hidden=24, tokens=4, stride=8),
    ),
)  # fmt: skip

CONFIGS.update(
    (config.name, config)
    for config in (WAN_TINY_TEST, T2V_TINY_TEST, FLASHHEAD_PRO_TINY_TEST, FLASHHEAD_LITE_TINY_TEST)
)

TINY_WORKER = (sys.executable, "-m", "tests.tiny_worker")
"""Command of a worker process that knows them."""
