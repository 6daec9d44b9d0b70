"""Overlap of the attention contexts of neighbouring latents, by rollout (the paper's Fig. 3).

Computed exactly from the rollouts' passes, without a model. The context of an emitted latent is everything attended to
by the denoising passes whose estimates it contains: own frames, past latents, the reference. A fused knot is the mean
of two estimates, so its context is that of two chunks. In this way the knot splits one abrupt change of context into
two smaller ones.

    python -m benchmarks.motion.contexts --svg contexts.svg
"""

import json
from collections.abc import Sequence

from benchmarks.charts import draw_bars, draw_heat, panels, svg
from benchmarks.motion.command import make_parser
from benchmarks.motion.variants import RolloutVariant
from engine.rollout.base import REFERENCE_SLOT, Pass, Rollout
from engine.rollout.rehearsal import rehearse
from ground.files import replacing
from models.config import EMBEDDED
from training.arguments import at_least, new_file

REFERENCE = -1  # the reference in a context, whatever its temporal index

# The paper's Fig. 3: (a) is the first; (b), LongLive, attends like the second; (c) is the fourth.
STRATEGIES: tuple[RolloutVariant, ...] = (
    RolloutVariant("Self Forcing, all past kept", {"strategy": "self_forcing", "window": 24}),
    RolloutVariant("Self Forcing, L = 6, start image pinned", {"strategy": "self_forcing"}),
    RolloutVariant("Knot Forcing without knot, k = 0", {"knot": 0}),
    RolloutVariant("Knot Forcing, k = 1", {}),
    RolloutVariant("Knot Forcing, k = 2", {"knot": 2}),
    RolloutVariant("Knot Forcing, k = 1, L = 9", {"window": 9}),
)


def attended(work: Pass) -> tuple[tuple[int, ...], frozenset[int]]:
    """A pass's own latents, and all that they attend to, as absolute indices."""
    own = tuple(work.origin + at for at in work.positions)
    past = {REFERENCE if slot == REFERENCE_SLOT else work.origin + at for slot, at in work.reads}
    return own, frozenset(own) | past


def contexts(rollout: Rollout, chunks: int = 7) -> list[frozenset[int]]:
    """The context of every emitted latent, 3 a chunk. Valid only for rollouts that fuse their knots."""
    emitted = chunks * rollout.spec.chunk
    found: list[frozenset[int]] = [frozenset()] * emitted
    for passes in rehearse(rollout, chunks, EMBEDDED.latent_shape):
        for work in passes:
            if any(work.sigmas):
                own, context = attended(work)
                found = [seen | context if latent in own else seen for latent, seen in enumerate(found)]
    return found


def overlaps(found: Sequence[frozenset[int]]) -> list[float]:
    """Intersection over union of the contexts of latents t and t + 1."""
    return [len(a & b) / len(a | b) for a, b in zip(found, found[1:], strict=False)]


def plot(found: dict[str, list[frozenset[int]]]) -> str:
    """The attention mask of each rollout, and the overlaps beside it, as SVG."""
    last = max(max(context) for each in found.values() for context in each)
    columns = [REFERENCE, *range(last + 1)]
    labels = ["ref", *(str(i) if i % 3 == 0 else "" for i in range(last + 1))]
    figure, axes = panels([(9.5, 1.0 + 0.14 * len(each)) for each in found.values()], across=2)
    for (name, each), mask, bars in zip(found.items(), axes[::2], axes[1::2], strict=True):
        rows = [str(i) if i % 3 == 0 else "" for i in range(len(each))]
        cells = [[float(column in context) for column in columns] for context in each]
        draw_heat(mask, name, rows, labels, cells, across="attended latent", down="emitted latent")
        overlap = overlaps(each)
        title = f"overlap of contexts of t and t + 1 (least {min(overlap):.3f})"
        draw_bars(bars, title, rows[:-1], overlap, top=1.0, across="emitted latent t")
    return svg(figure)


def main(words: Sequence[str] | None = None) -> None:
    parser = make_parser("contexts", __doc__)
    parser.add_argument("--chunks", type=at_least(1), default=7)
    parser.add_argument("--svg", type=new_file, help="write the plot here")
    arguments = parser.parse_args(words)
    found = {v.name: contexts(v.rollout(EMBEDDED), arguments.chunks) for v in STRATEGIES}
    data = {name: [round(value, 4) for value in overlaps(each)] for name, each in found.items()}
    if arguments.json:
        print(json.dumps(data))
    else:
        for name, values in data.items():
            print(f"{name:42} least {min(values):.3f}   last chunk {' '.join(f'{v:.3f}' for v in values[-4:])}")
    if arguments.svg is not None:
        drawn = plot(found)
        with replacing(arguments.svg) as draft:
            draft.write_text(drawn)


if __name__ == "__main__":
    main()
