"""Training of the viseme estimator (models.encoders.visemes): a corpus's lips from its voices, by regression.

    python -m training.viseme_estimator --data corpus.npz --out models/weights/embedded/visemes.safetensors

It hears the corpus as the transformer's training does: in other throats, colours and levels, over noise. A quarter of
an hour of one core. Needs no synthesiser.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ground.errors import one_line_errors
from ground.motion import NAMES
from models.encoders.visemes import VisemeEstimator
from training.arguments import at_least, new_file
from training.checkpoint import export
from training.data.synthetic.corpus import LIPS
from training.dataset import ClipConfig, ClipSampler, Corpus
from training.losses import channel_weights

RATE, WARM, FINAL = 1.5e-3, 100, 0.02
DROPOUT, DECAY, AVERAGE = 0.1, 0.02, 0.995


def learn(
    clips: ClipSampler, steps: int, batch: int, seed: int, told: Callable[[int, float], None] | None = None
) -> VisemeEstimator:
    """The averaged estimator after so many steps of AdamW, its rate falling on a cosine; errors are of values and of
    their speed. told: the step and its loss, after every step."""
    torch.manual_seed(seed)
    model, averaged = VisemeEstimator(dropout=DROPOUT), VisemeEstimator()
    averaged.load_state_dict(model.state_dict())
    weights = channel_weights(NAMES[LIPS])
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    for step in range(steps):
        for group in optimiser.param_groups:
            falling = FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = RATE * min(1.0, (step + 1) / WARM) * falling
        tokens, lips = clips.heard(step, batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            made = model(tokens)
        error = made.float() - lips
        speed = error[:, 1:] - error[:, :-1]
        loss = (error.square() * weights).mean() + (speed.square() * weights).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        if told is not None:
            told(step + 1, float(loss.detach()))
    return averaged.eval()


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="training.viseme_estimator", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help=".npz of training.data.synthetic.make_data")
    parser.add_argument("--out", type=new_file, required=True)
    parser.add_argument("--steps", type=at_least(1), default=2000)
    parser.add_argument("--batch", type=at_least(1), default=64)
    parser.add_argument("--threads", type=at_least(1), default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    with one_line_errors("training.viseme_estimator"):
        faces = np.zeros((1, 20), np.float32), np.zeros(1, np.float32)
        clips = ClipSampler(Corpus(arguments.data), *faces, ClipConfig(), arguments.seed, VisemeEstimator())
        began = time.monotonic()

        def told(step: int, loss: float) -> None:
            if step % 100 == 0 or step == arguments.steps:
                print(f"step {step}: loss {loss:.3f}, {time.monotonic() - began:.0f} s", flush=True)

        estimator = learn(clips, arguments.steps, arguments.batch, arguments.seed, told)
        size = export(estimator.state_dict(), arguments.out, {"of": "a viseme estimator"})
        print(f"{arguments.out}: {size:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
