"""Training loop: draws turns from a stage, descends, averages, logs, saves. Knows no faces, rollouts or losses."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch

from ground.errors import RequestError
from ground.files import replacing
from models.dit.transformer import CausalWanDiT
from models.registry import choose_dtype
from training.checkpoint import Progress, State
from training.clips import Clips
from training.configs import StageConfig
from training.families import family_of
from training.journal import Figures, Journal
from training.parallel import World
from training.stages import STAGES, NetworkTurn, Piece, Setting
from training.stream import ClipStream

Item = TypeVar("Item", NetworkTurn, Piece)
SHEET_SEED = 7


@contextmanager
def resumable() -> Iterator[None]:
    """Context in which a failed write becomes a RequestError that says how to resume."""
    try:
        yield
    except RequestError as error:
        if error.code != "cannot_write":
            raise
        remedy = "make room, or let it write there, and start it again: it goes on from its last checkpoint"
        raise RequestError(error.code, f"{error.message}; {remedy}") from error


class Trainer:
    """One stage of training. `run` goes on from the checkpoint in `folder`, if there is one.

    networks: those that are trained, filled with what they start from. teacher: frozen, None for none. Both are placed
    (and sharded) here. origin: what tells where they come from, see `training.start`. Raises RequestError ``other_run``
    if the folder is another run's, ``bad_checkpoint`` if nothing can go on from what it holds.
    """

    def __init__(
        self, config: StageConfig, networks: dict[str, CausalWanDiT], teacher: CausalWanDiT | None, clips: Clips,
        folder: Path, world: World, origin: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        assert set(networks) == set(config.networks)
        self.config, self.clips, self.folder, self.world = config, clips, folder, world
        self.dtype = choose_dtype(config.dtype, world.device)
        self.networks = networks
        for network in [*networks.values(), *([] if teacher is None else [teacher])]:
            network.recompute = config.recompute
            world.place(network)
        if teacher is not None:
            teacher.eval().requires_grad_(False)
        rates = {"model": config.rate, "critic": config.critic.rate}
        self.rates = {name: rates[name] for name in networks}
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(
                network.parameters(), lr=self.rates[name], betas=config.betas, weight_decay=config.weight_decay
            )
            for name, network in networks.items()
        }
        ema = {name: value.clone() for name, value in networks["model"].state_dict().items()}
        generator = torch.Generator().manual_seed(config.seed)
        rows = config.batch // config.accumulate
        share = world.share(rows)
        stream = ClipStream(clips, rows, share, config.workers)
        self.state = State(dict(networks), self.optimisers, ema, generator, stream, config.identity | (origin or {}))
        self.family = family_of(config.model, config.loss)
        with self.autocast():
            self.stage = STAGES[config.stage](
                Setting(config, self.family, networks, teacher, stream, generator, world.device, share)
            )
        self.progress = self.state.restore(self.checkpoint) if self.checkpoint.exists() else Progress()
        self._began = time.monotonic() - self.progress.seconds

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def step(self) -> int:
        return self.progress.step

    @resumable()
    def run(self) -> None:
        """Train until the steps are done, or to the first checkpoint after the hours are over."""
        config = self.config
        if self.step >= config.steps or self.out_of_time():
            if self.world.leads:
                over = "" if self.step >= config.steps else f", and the {config.hours:g} hours are over"
                print(f"nothing left to do: {self.step} of {config.steps} steps{over}", flush=True)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(self.folder, self.step) if self.world.leads else None
        if self.world.leads:
            with replacing(self.folder / "config.json") as partial:
                partial.write_text(json.dumps({**asdict(config), "dtype": str(self.dtype)}, indent=1))
        while self.step < config.steps:
            figures = self.advance()
            if journal is not None and self.step % config.log_every == 0:
                journal.write(figures)
            if config.sheet_every and self.step % config.sheet_every == 0:
                self.show(journal)
            if self.step % config.save_every == 0 or self.step == config.steps:
                self.save()
                if self.out_of_time():
                    break
        if journal is not None:
            journal.close()

    def out_of_time(self) -> bool:
        return self.world.any(self.progress.seconds > 3600 * self.config.hours)

    def save(self) -> None:
        self.state.save(self.checkpoint, self.progress, write=self.world.leads)

    def advance(self) -> Figures:
        """One step: every turn of the stage. Returns its figures."""
        began, figures, errors = time.monotonic(), {}, {}
        factor = rate_factor(self.step, self.config)
        for turn in self.computed(self.stage.turns(self.step)):
            loss, error = self.descend(turn, factor)
            figures["loss" if turn.network == "model" else f"{turn.network}_loss"] = round(loss, 5)
            errors[turn.network] = error
            if turn.network == "model":
                self.average()
        now = time.monotonic()
        self.progress = Progress(self.step + 1, now - self._began)
        return {
            "step": self.step,
            **figures,
            "rate": round(self.rates["model"] * factor, 10),
            "seconds_a_step": round(now - began, 3),
            "seconds": round(self.progress.seconds, 1),
            "error": errors.get("model", errors.get("critic")),
        }

    def descend(self, turn: NetworkTurn, factor: float) -> tuple[float, dict[str, float]]:
        """One optimiser step of one network; its loss and plain errors, over all pieces and processes."""
        network, optimiser = self.networks[turn.network], self.optimisers[turn.network]
        for group in optimiser.param_groups:
            group["lr"] = self.rates[turn.network] * factor
        parts = []
        for loss, errors in self.computed(turn.pieces):
            (loss / self.config.accumulate).backward()
            parts.append(torch.cat([loss.detach()[None], errors]))
        torch.nn.utils.clip_grad_norm_(network.parameters(), self.config.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)  # at once: two networks never hold gradients together
        mean, *by_name = self.world.mean(torch.stack(parts).mean(0)).tolist()
        return mean, {name: round(e, 4) for name, e in zip(self.family.names, by_name, strict=True)}

    def computed(self, items: Iterator[Item]) -> Iterator[Item]:
        """Compute each item under autocast; the caller's use of it is outside."""
        while True:
            with self.autocast():
                item = next(items, None)
            if item is None:
                return
            yield item

    def autocast(self) -> torch.autocast:
        # Without the cache of cast weights: one made where no gradient is kept would hide the weight from the next.
        return torch.autocast(
            self.world.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16, cache_enabled=False
        )

    @torch.no_grad()
    def average(self) -> None:
        decay = min(self.config.ema, (self.step + 1) / (self.step + 10))
        for name, value in self.networks["model"].state_dict().items():
            self.state.ema[name].lerp_(value, 1 - decay)

    def show(self, journal: Journal | None) -> None:
        """A sheet of the averaged model on a clip of its own; training does not notice."""
        clip = self.clips.apart(SHEET_SEED).batch(0, 1).to(self.world.device)
        with torch.no_grad(), self.averaged(), self.autocast():
            made = self.stage.sample(clip)
        picture = self.family.sheet(made[0].float().cpu(), clip)
        if journal is not None and picture is not None:
            journal.show(picture, self.step)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with its averaged weights."""
        model = self.networks["model"]
        own = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.state.ema)
        try:
            yield
        finally:
            model.load_state_dict(own)


def rate_factor(step: int, config: StageConfig) -> float:
    """Linear warm-up, then a cosine down to `final_rate`."""
    warm = max(1, round(config.warm * config.steps))
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(1, config.steps - warm)
    return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
