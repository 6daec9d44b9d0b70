"""Assembly of a training run from its files: clips, networks, starting weights, trainer (`knotcast train`)."""

from contextlib import nullcontext
from pathlib import Path

import torch

from ground.errors import RequestError
from ground.files import held
from models.dit.transformer import CausalWanDiT
from models.encoders.visemes import WEIGHTS, load_viseme_estimator
from training.clips import Clips
from training.configs import StageConfig
from training.dataset import ClipSampler, Corpus, load_portraits
from training.latents import LatentFolder
from training.parallel import joined
from training.sequence import Layout
from training.start import fill, origin, read_weights
from training.trainer import Trainer


def open_clips(config: StageConfig, data: Path, portraits: Path | None, visemes: Path | None) -> Clips:
    """The embedded model's corpus (.npz of training.data.synthetic.make_data) on portraits or painted faces, with
    visemes by an estimator (None = the shipped one), or encoded clips. Raises RequestError, EngineError."""
    if config.model.codec != "motion":
        if visemes is not None:
            raise RequestError("not_taken", f"{config.model.name} has no visemes in its drive: leave out --visemes")
        if portraits is not None:
            raise RequestError("not_taken", f"clips of {config.model.name} hold their faces: leave out --portraits")
        frames = Layout(config.rollout, config.chunks).latents
        return LatentFolder(data, config.model, frames, config.clips.reference_ahead, config.seed)
    if not data.is_file():
        raise RequestError(
            "no_data", f"there is no corpus {data}: make one with python -m training.data.synthetic.make_data"
        )
    features, opening = load_portraits(portraits)
    return ClipSampler(Corpus(data), features, opening, config.clips, config.seed, load_viseme_estimator(visemes))


def sources(config: StageConfig, start: Path | None, teacher: Path | None) -> tuple[Path | None, Path | None]:
    """Paths of the starting weights and of the teacher. The student of a causal teacher starts from it, if no start is
    named. Raises RequestError for what the stage lacks or does not take."""
    causal_teacher = config.stage == "causal" and (
        config.method == "fine_tune" or (config.method == "ode" and config.ode.teacher == "causal")
    )
    if causal_teacher:  # either names the other
        start, teacher = start or teacher, teacher or start
    if teacher is not None and not config.needs_teacher:
        raise RequestError("not_taken", "this stage has no teacher: leave out --teacher")
    if config.needs_teacher and teacher is None:
        kind = "causal model" if causal_teacher else "base model"
        raise RequestError("no_teacher", f"this stage learns from the {kind}: name its checkpoint with --teacher")
    if config.stage == "distill" and start is None:
        raise RequestError("no_start", "this stage goes on from the causal model: name its checkpoint with --start")
    return start, teacher


def build_networks(
    config: StageConfig, start: Path | None, teacher: Path | None
) -> tuple[dict[str, CausalWanDiT], CausalWanDiT | None]:
    """The trained networks and the frozen teacher, from `sources`. The critic begins as its teacher."""
    torch.manual_seed(config.seed)
    model = CausalWanDiT(config.model.dit)
    if start is not None:
        fill(model, read_weights(start))
    if teacher is None:
        return {"model": model}, None
    guide = CausalWanDiT(config.model.dit)
    fill(guide, read_weights(teacher))
    networks = {"model": model}
    if config.stage == "distill":
        networks["critic"] = CausalWanDiT(config.model.dit)
        networks["critic"].load_state_dict(guide.state_dict())
    return networks, guide


def train(
    config: StageConfig, data: Path, portraits: Path | None, visemes: Path | None, start: Path | None,
    teacher: Path | None, out: Path, device: str,
) -> Path | None:  # fmt: skip
    """Run one stage to its end, or on from where it was; returns its checkpoint, to the process that wrote it.

    Raises RequestError for what cannot be used, ``in_use`` and ``other_run`` for the folder.
    """
    with joined(device) as world:
        start, teacher = sources(config, start, teacher)
        clips = open_clips(config, data, portraits, visemes)
        networks, guide = build_networks(config, start, teacher)
        heard = (visemes or WEIGHTS) if config.model.dit.visemes else None
        begun = origin(start=start, teacher=teacher, visemes=heard)
        with held(out, "training in") if world.leads else nullcontext():
            trainer = Trainer(config, networks, guide, clips, out, world, begun)
            trainer.run()
        return trainer.checkpoint if world.leads else None
