"""Driver of one chunk: steps a rollout's generator and holds its last commit back for the next chunk.

Whoever owns the model runs ``next_pass`` and hands the answer to ``answer``; several jobs' passes may run as one batch.
"""

from torch import Tensor

from engine.rollout.base import Denoise, Pass, join


class ChunkJob:
    """Ask ``next_pass``, run it, ``answer`` it, until ``latents`` is there; then ``held`` is the chunk's commit.

    held (argument): the commit of the call's previous chunk; it is joined with this chunk's first denoising pass.
    """

    def __init__(self, denoise: Denoise, held: Pass | None = None) -> None:
        self._denoise = denoise
        self.held = held
        self.latents: Tensor | None = None
        self.next_pass: Pass | None = next(denoise)
        if held is not None and not self.next_pass.is_commit:
            self.next_pass = join(held, self.next_pass)
            self.held = None

    def answer(self, prediction: Tensor | None) -> None:
        """The prediction for ``next_pass``, of its noisy frames: [F, C, h, w], None for a commit."""
        try:
            following = self._denoise.send(prediction)
            if following.is_commit:
                self.held = following
                following = self._denoise.send(None)
        except StopIteration as done:
            self.latents, self.next_pass = done.value, None
        else:
            self.next_pass = following
