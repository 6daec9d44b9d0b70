"""Trains the embedded motion transformer: `python -m training.motion_trainer --config base-cpu --data corpus.npz ...`.

One loop for both stages. Checkpoints are safetensors and resume exactly; every logged step is a JSON line.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.config import EMBEDDED
from models.dit import CausalWanDiT
from models.motion import NAMES
from models.registry import choose_dtype
from training import checkpoint
from training.configs import PRESETS, TrainConfig
from training.dataset import ClipSampler, Corpus, load_portraits
from training.distill import TeacherPath, missing_spread, student_input, teacher_path
from training.losses import motion_loss
from training.noise import add_noise, sample_sigmas
from training.sequence import CHUNKS, SPAN, Sequence, build, predict


class MotionTrainer:
    """One stage of training. `run` goes on from the checkpoint in `folder`, if there is one."""

    def __init__(
        self, config: TrainConfig, sampler: ClipSampler, folder: Path, start: checkpoint.Ema | None = None
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.sampler, self.folder = config, sampler, folder
        self.dtype = choose_dtype(config.dtype, torch.device("cpu"))
        self.model = CausalWanDiT(EMBEDDED.dit)
        self.teacher: CausalWanDiT | None = None
        self.spread: Tensor | None = None
        if start is not None:
            self.model.load_state_dict({name: value.float() for name, value in start.items()})
        if config.stage == "distil":
            assert start is not None, "distillation needs a teacher"
            self.teacher = CausalWanDiT(EMBEDDED.dit)
            self.teacher.load_state_dict(self.model.state_dict())
            self.teacher.eval().requires_grad_(False)
            self.spread = self.measure_spread(self.teacher)
        self.ema = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self._path: tuple[Sequence, TeacherPath] | None = None
        self._seconds = time.monotonic()
        if self.checkpoint.exists():
            self.step = checkpoint.restore(
                self.checkpoint, self.model, self.ema, self.optimiser, self.generator, self.sampler.rng
            )

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        while self.step < self.config.steps:
            loss, errors = self.advance()
            self.step += 1
            if self.step % self.config.log_every == 0:
                self.log(loss, errors)
            # A teacher's path serves several steps and is not saved, so checkpoints fall between paths.
            if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                self._path = None
                checkpoint.save(
                    self.checkpoint, self.step, self.model, self.ema, self.optimiser, self.generator, self.sampler.rng
                )

    def advance(self) -> tuple[float, Tensor]:
        """One optimiser step; returns the loss and the error per channel."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.rate * rate_factor(self.step, self.config)
        sequence, noisy, sigmas, target = self.task()
        with self.autocast():
            prediction = predict(self.model, sequence, noisy, sigmas.repeat_interleave(SPAN, 1))
        loss, errors = motion_loss(prediction, target, sigmas, self.config.loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimiser.step()
        self.average()
        return float(loss.detach()), errors

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def measure_spread(self, teacher: CausalWanDiT) -> Tensor:
        """Before the first step, on clips and noise of its own, so that a resumed run finds the same."""
        config = self.config
        generator, before = torch.Generator().manual_seed(config.seed), self.sampler.rng
        self.sampler.rng = np.random.default_rng(config.seed + 1)
        sequence = build(self.sampler.batch(config.spread_clips), config.exposure, generator)
        self.sampler.rng = before
        with self.autocast():
            return missing_spread(teacher, sequence, config.paths, generator, config.spread_limit)

    def task(self) -> tuple[Sequence, Tensor, Tensor, Tensor]:
        """The next sequence, its noisy latents, their sigmas [B, 7], and what they should become."""
        config = self.config
        if self.teacher is None:
            sequence = build(self.sampler.batch(config.batch), config.exposure, self.generator)
            sigmas = sample_sigmas((config.batch, CHUNKS), config.schedule, self.generator)
            noise = torch.randn(sequence.target.shape, generator=self.generator)
            return (
                sequence,
                add_noise(sequence.target, noise, sigmas.repeat_interleave(SPAN, 1)),
                sigmas,
                sequence.target,
            )
        if self._path is None or self.step % config.reuse == 0:
            sequence = build(self.sampler.batch(config.batch), config.exposure, self.generator)
            with self.autocast():
                path = teacher_path(self.teacher, sequence, config.paths, self.generator, self.spread)
                self._path = sequence, path
        sequence, path = self._path
        noisy, sigmas = student_input(path, self.generator)
        return sequence, noisy, sigmas, path.end

    @torch.no_grad()
    def average(self) -> None:
        decay = min(self.config.ema, (self.step + 1) / (self.step + 10))
        for name, value in self.model.state_dict().items():
            self.ema[name].lerp_(value, 1 - decay)

    def log(self, loss: float, errors: Tensor) -> None:
        now = time.monotonic()
        line = {
            "step": self.step,
            "loss": round(loss, 5),
            "rate": round(self.config.rate * rate_factor(self.step - 1, self.config), 7),
            "seconds_a_step": round((now - self._seconds) / self.config.log_every, 3),
            "error": {name: round(float(e), 4) for name, e in zip(NAMES, errors, strict=True)},
        }
        self._seconds = now
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps({k: v for k, v in line.items() if k != "error"}), flush=True)


def rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to `final_rate`."""
    warm = max(1, round(config.warm * config.steps))
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(1, config.steps - warm)
    return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=sorted(PRESETS), required=True)
    parser.add_argument("--data", type=Path, required=True, help=".npz of training.make_data")
    parser.add_argument("--portraits", type=Path, help="folder of portraits, or its landmarks.json; none: painted ones")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument("--start", type=Path, help="checkpoint whose averaged weights are the start (and the teacher)")
    parser.add_argument("--export", type=Path, help="write bf16 weights here at the end")
    parser.add_argument("--steps", type=int, help="another number of steps than the preset's")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = PRESETS[args.config] if args.steps is None else replace(PRESETS[args.config], steps=args.steps)
    features, opening = load_portraits(args.portraits)
    sampler = ClipSampler(Corpus(args.data), features, opening, config.clips, config.seed)
    start = checkpoint.averaged_weights(args.start) if args.start else None
    trainer = MotionTrainer(config, sampler, args.out, start)
    args.out.mkdir(parents=True, exist_ok=True)
    if trainer.spread is not None:
        print("spread", {name: round(float(s), 2) for name, s in zip(NAMES, trainer.spread, strict=True)}, flush=True)
    described = {**asdict(config), "dtype": str(trainer.dtype), "threads": args.threads}
    (args.out / "config.json").write_text(json.dumps(described, indent=1))
    trainer.run()
    if args.export:
        note = {"model": EMBEDDED.name, "stage": config.stage, "steps": str(trainer.step)}
        print(f"{args.export}: {checkpoint.export(trainer.ema, args.export, note):.1f} MiB")


if __name__ == "__main__":
    main()
