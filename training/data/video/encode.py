"""Command that encodes prepared clips into latents for a video model (training.latents reads them).

    python -m training.data.video.encode CLIPS --vae vae.safetensors --out LATENTS

CLIPS is what training.data.video.prepare made, with --size and --fps of the model's pictures. Of every clip it takes
the windows that follow each other from its first frame on: pictures by Wan2.1's encoder (any published format; its
weights are not here), drive as a call over the same sound would have it. Interrupted, it goes on where it was.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.drive.buffer import DriveBuffer
from ground.errors import MediaError, RequestError, one_line_errors
from ground.files import held
from models.checkpoints.reading import open_checkpoint
from models.codecs.carry import StreamState
from models.codecs.wan_vae import WanEncoder
from models.config import CONFIGS, ModelConfig
from models.registry import choose_device, load_encoder
from training.arguments import at_least, new_folder
from training.data.video.clips import Clip, ClipFolder, Floats, read_sound, read_window
from training.data.video.folder import hold_settings
from training.latents import write_clip

Encoder = Callable[[Tensor], Tensor]  # uint8 [T, H, W, 3] to normalised latents [1 + (T - 1) / 4, C, h, w]
LATENTS = 22  # what every stage takes


@dataclass(frozen=True, slots=True)
class Place:
    """A window of a clip, from its frame ``first`` on, and the file that it becomes."""

    clip: Clip
    first: int
    file: Path

    @property
    def is_made(self) -> bool:
        """Of the clip as it is: not if its source was prepared again since."""
        return self.file.exists() and self.file.stat().st_mtime_ns > self.clip.path.stat().st_mtime_ns


def check(clip: Clip, model: ModelConfig) -> None:
    """Raises RequestError ``wrong_fps``, ``invalid_size``."""
    if clip.fps != model.fps:
        raise RequestError(
            "wrong_fps", f"{clip.path.name} has {clip.fps} fps, {model.name} needs {model.fps}: prepare with --fps"
        )
    if (clip.size, clip.size) != model.pixel_size:
        raise RequestError(
            "invalid_size", f"{clip.path.name} has {clip.size} pixels, others {model.pixel_size[0]}: prepare them alike"
        )


def example(clip: Clip, first: int, latents: int, model: ModelConfig, encode: Encoder) -> dict[str, Tensor]:
    """latents, drive and portrait, as training.latents.write_clip takes them, of a clip from frame `first` on: 22
    latents are 85 frames, of which the first is a latent by itself."""
    window = read_window(clip, first, 1 + (latents - 1) * model.frames_per_latent)
    pictures = torch.from_numpy(window.frames)
    drive = torch.from_numpy(_drive(clip, first, latents, model))
    return {"latents": encode(pictures), "drive": drive, "portrait": encode(pictures[-1:])[0]}


def _drive(clip: Clip, first: int, latents: int, model: ModelConfig) -> Floats:
    """[F, n, d]: as a call hears the clip, with nothing given but the voice. A token hears a little more than its own
    time, so a second of the clip on either side of the window is heard too."""
    begin = max(0, first - clip.fps)
    end = min(clip.frames, first + (latents + 1) * model.frames_per_latent + clip.fps)
    pcm = np.round(read_sound(clip, begin, end - begin) * 32768).clip(-32768, 32767).astype(np.int16)
    buffer = DriveBuffer(model, first_frame=first - begin)
    buffer.push_voice(pcm, 0)
    return buffer.take(0, latents).tokens


def places(folder: Path, out: Path, latents: int, model: ModelConfig) -> Iterator[Place]:
    """Every window of every clip. Raises RequestError for a clip that is not the model's, MediaError ``no_clips`` where
    none is long enough."""
    frames, found = 1 + (latents - 1) * model.frames_per_latent, False
    for clip in ClipFolder(folder).clips:
        check(clip, model)
        name = "-".join(clip.path.relative_to(folder).with_suffix("").parts)
        for first in range(0, clip.frames - frames + 1, frames):
            found = True
            yield Place(clip, first, out / f"{name}-{first:06d}.safetensors")
    if not found:
        raise MediaError("no_clips", f"no clip has {frames} frames: prepare longer ones or ask for fewer latents")


def by(encoder: WanEncoder, device: torch.device) -> Encoder:
    """An encoder of whole windows, each a stream of its own."""

    @torch.inference_mode()
    def encode(pictures: Tensor) -> Tensor:
        latents: Tensor = encoder(pictures.to(device).permute(0, 3, 1, 2).float() / 255, StreamState())[0]
        return latents.cpu()

    return encode


def model_of(name: str, folder: Path) -> ModelConfig:
    """The model at the clips' size. Raises RequestError for a model or a size that is none, MediaError ``no_clips``."""
    config = CONFIGS.get(name)
    if config is None or config.codec != "wan" or not config.dit.drive_dim:
        known = [each.name for each in CONFIGS.values() if each.codec == "wan" and each.dit.drive_dim]
        raise RequestError("unknown_model", f"no model that learns from films is called {name!r}: {', '.join(known)}")
    clips = ClipFolder(folder).clips
    return config.at_size(clips[0].size, clips[0].size) if clips else config


def run(clips: Path, vae: Path, out: Path, model: str, latents: int, device: torch.device) -> None:
    """Raises AvatarError; nothing is half-written."""
    config = model_of(model, clips)
    todo = list(places(clips, out, latents, config))
    open_checkpoint(vae)  # raises a clear error if it is missing
    encode = by(load_encoder(config, vae, device, torch.float32), device)
    with held(out, "encoding into"):
        hold_settings(
            out / "encode.json",
            {
                "clips": str(clips.resolve()),
                "vae": str(vae.resolve()),
                "model": model,
                "size": config.pixel_size[0],
                "latents": latents,
            },
        )
        there = 0
        for number, place in enumerate(todo, 1):
            if place.is_made:
                there += 1
                continue
            write_clip(place.file, example(place.clip, place.first, latents, config, encode))
            print(f"{number} of {len(todo)}: {place.file.name}", flush=True)
    print(f"{out}: {len(todo)} examples, {there} of them were there")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="a folder that training.data.video.prepare made")
    parser.add_argument("--vae", type=Path, required=True, help="Wan2.1's autoencoder, in any published format")
    parser.add_argument("--out", type=new_folder, required=True, help="folder for the examples")
    parser.add_argument("--model", default="wan2.1-1.3b")
    parser.add_argument("--latents", type=at_least(2), default=LATENTS, help="of an example; every stage takes 22")
    parser.add_argument("--device", default="auto", help="default: a GPU if there is one")
    args = parser.parse_args()
    with one_line_errors("training.data.video.encode"):
        run(args.clips, args.vae, args.out, args.model, args.latents, choose_device(args.device))


if __name__ == "__main__":
    main()
