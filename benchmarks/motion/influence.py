"""Contribution of each context frame to a latent's attention (the paper's Fig. 5): the reason for a short knot.

In a roll of the embedded model with the voice alone, every denoising pass is run again with one context frame after the
other masked out of all layers. The figure is the relative change (norm over norm) of each block's attention output, the
input of its output projection, by the distance of the frame from the attending latent. The paper does not say whether
frames are left out of one layer or of all. Here it is all, so a layer's change includes that of the layers before it.

    python -m benchmarks.motion.influence --svg influence.svg
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.charts import draw_bars, panels, svg
from benchmarks.motion.command import make_parser
from benchmarks.motion.held_out import held_out_faces, long_speech
from benchmarks.motion.motion_figures import Estimate, estimate
from benchmarks.motion.report import measuring, print_report
from benchmarks.motion.rolls import SHIPPED, BenchModel, drive
from benchmarks.motion.variants import RolloutVariant
from engine.rollout.base import REFERENCE_SLOT, Pass
from engine.rollout.job import ChunkJob
from engine.worker.runner import ModelRunner, SlottedPass
from ground.files import replacing
from models.codecs.motion import reference_features
from models.config import EMBEDDED
from models.dit.block import Block
from models.dit.transformer import CausalWanDiT
from training.arguments import at_least, new_file
from training.data.synthetic.phonemes import Synthesiser

TITLE = "relative change of attention output when a context frame is left out"
WARM = 3  # chunks after which the window is full and a knot has been given
Changes = dict[tuple[str, int], list[np.ndarray]]  # (kind of frame, distance in latents) -> change of each seed


class AttentionOutputs:
    """Forward hooks on every block: ``taken`` holds the attention outputs [B, F, d] of the last forward, by layer."""

    def __init__(self, dit: CausalWanDiT) -> None:
        self.taken: dict[int, Tensor] = {}
        self._hooks = [
            cast(Block, block).self_attn.o.register_forward_pre_hook(partial(self._take, layer))
            for layer, block in enumerate(dit.blocks)
        ]

    def _take(self, layer: int, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self.taken[layer] = inputs[0]

    def frames(self, count: int) -> Tensor:
        """[layers, B, F, d], the tokens of a frame side by side."""
        outputs = torch.stack([self.taken[layer] for layer in sorted(self.taken)])
        return cast(Tensor, outputs.unflatten(2, (count, -1)).flatten(3))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def without(work: Pass, left_out: int) -> Pass:
    """The pass with one key frame masked for every query. left_out: its index; reads come first, then own frames."""
    keys = len(work.reads) + work.frames
    return replace(work, mask=(tuple(key != left_out for key in range(keys)),) * work.frames)


def measure_pass(runner: ModelRunner, outputs: AttentionOutputs, works: Sequence[Pass], found: Changes) -> None:
    """Leave out each context frame of one pass, which all seeds have alike, and record the changes in ``found``."""
    first = works[0]
    runner.run([SlottedPass(slot, work) for slot, work in enumerate(works)])
    whole = outputs.frames(first.frames)
    keys = [*first.reads, *((None, at) for at in first.positions)]
    for key, (slot, at) in enumerate(keys):
        runner.run([SlottedPass(row, without(work, key)) for row, work in enumerate(works)])
        change = (outputs.frames(first.frames) - whole).norm(dim=3) / whole.norm(dim=3)  # [layers, B, F]
        for anchor, position in enumerate(first.positions):
            if at == position and slot is None:
                continue  # a latent's own tokens are no context
            label = ("reference", 0) if slot == REFERENCE_SLOT else ("latent", at - position)
            found[label].append(change[:, :, anchor].mean(0).numpy())


def influence(
    candidate: BenchModel, face: dict[str, float], seeds: int, chunks: int, variant: RolloutVariant
) -> dict[str, Estimate]:
    """Mean relative change by context frame: 'ref', then distances '-6' .. '+3' in latents."""
    rollout = variant.rollout(EMBEDDED)
    runner = ModelRunner(candidate.model, slots=seeds, frames=rollout.cached_frames)
    speech = long_speech(Synthesiser(), 0.48 * (chunks + 2))
    heard = drive(speech, None, rollout.spec.chunk * (chunks + 1), candidate.estimator)
    features = torch.from_numpy(reference_features(face))[:, None, None].expand(-1, *EMBEDDED.latent_size).contiguous()
    states = [rollout.new_state(torch.zeros(EMBEDDED.latent_shape), features, seed) for seed in range(seeds)]
    outputs = AttentionOutputs(candidate.model.dit)
    found: Changes = defaultdict(list)
    try:
        for chunk in range(chunks):
            at = states[0].next_latent
            jobs = [ChunkJob(rollout.denoise(state, heard[at : at + rollout.drive_latents])) for state in states]
            while jobs[0].next_pass is not None:
                works = [job.next_pass for job in jobs if job.next_pass is not None]
                if chunk >= WARM and any(works[0].sigmas):
                    measure_pass(runner, outputs, works, found)
                answers = runner.run([SlottedPass(slot, work) for slot, work in enumerate(works)])
                for job, answer in zip(jobs, answers, strict=True):
                    job.answer(answer)
            runner.run([SlottedPass(slot, job.held) for slot, job in enumerate(jobs) if job.held is not None])
    finally:
        outputs.close()
    return {
        "ref" if kind == "reference" else f"{distance:+d}": estimate(lambda rows: float(rows.mean()), np.array(rows).T)
        for (kind, distance), rows in sorted(found.items(), key=lambda item: (item[0][0] != "reference", item[0][1]))
    }


def plot(found: dict[str, Estimate], title: str) -> str:
    """Bars with their intervals, as SVG."""
    values, halves = [each.value for each in found.values()], [each.half for each in found.values()]
    figure, (axes,) = panels([(6.5, 2.6)])
    top = float(np.ceil(12 * max(values)) / 10)
    across = "context frame: latents from the one that attends (ref = the reference)"
    draw_bars(axes, title, list(found), values, top=top, halves=halves, across=across)
    return svg(figure)


def main(words: Sequence[str] | None = None) -> None:
    parser = make_parser("influence", __doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="default: the shipped weights")
    parser.add_argument("--portraits", type=Path, help="landmarks.json; default: an average face")
    parser.add_argument("--seeds", type=at_least(1), default=8)
    parser.add_argument("--chunks", type=at_least(WARM + 1), default=20)
    parser.add_argument("--window", type=int, default=6, help="L; the shipped weights were trained with 6")
    parser.add_argument("--svg", type=new_file, help="write the plot here")
    arguments = parser.parse_args(words)
    about = {"weights": arguments.weights.name, "seeds": arguments.seeds, "chunks": arguments.chunks}
    with measuring("influence"):
        candidate = BenchModel(arguments.weights)
        face = held_out_faces(arguments.portraits)[0]
        variant = RolloutVariant("own", {"window": arguments.window})
        found = influence(candidate, face, arguments.seeds, arguments.chunks, variant)
        print_report({TITLE: {"own": dict(found)}}, as_json=arguments.json, **about)
    if arguments.svg is not None:
        drawn = plot(found, TITLE)
        with replacing(arguments.svg) as draft:
            draft.write_text(drawn)


if __name__ == "__main__":
    main()
