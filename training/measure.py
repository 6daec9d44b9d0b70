"""Figures of a trained motion transformer, by the real rollout with voice only: lips against truth, heads against the
data.

`python -m training.measure --weights dit.safetensors --voices DIR --portraits landmarks.json`. Voices (plain espeak-ng,
never trained on), sentences, readers and portraits are held out. Several calls run as one batch, each with its own
seed.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import RequestError
from engine.kv_cache import KVCache
from engine.rollout.base import Rollout
from engine.rollout.job import ChunkJob
from engine.rollout.strategies import default_spec, make_rollout
from engine.runner import ModelRunner, SlottedPass
from models.config import EMBEDDED
from models.deblocking import deblock
from models.dit import CausalWanDiT
from models.features import frame_tokens
from models.motion import CHANNELS, FRAMES_PER_LATENT, INDEX, JAW_SPAN, SCALES
from models.motion_codec import reference_features, unpack_controls
from models.registry import LoadedModel, load_weights
from training.faces import held_out_landmarks
from training.synthetic.corpus import (
    CorpusConfig,
    CorpusMaker,
    faster,
    held_out_sentences,
    human_speech,
    join,
    pause,
    speaking_frames,
)
from training.synthetic.corpus import hops_of as hops_of_sound
from training.synthetic.phonemes import SAMPLE_RATE, SILENCE, Speech, Voice
from training.synthetic.tracks import FPS, HeadStyle, head_tracks, loudness
from training.synthetic.visemes import LIP_CHANNELS, join_silences, lip_tracks

FloatArray = NDArray[np.float64]
HEAD_NAMES = ("yaw", "pitch", "roll", "tx", "ty")


@dataclass(frozen=True, slots=True)
class Case:
    """A voice that was kept from training, and what its lips should do."""

    name: str
    speech: Speech
    lips: FloatArray

    @property
    def frames(self) -> int:
        return len(self.lips)


def case(name: str, speech: Speech) -> Case:
    frames = int(len(speech.sound) / SAMPLE_RATE * FPS)
    return Case(name, speech, lip_tracks(speech.phonemes, frames / FPS, FPS))


def synthetic_cases(maker: CorpusMaker) -> list[Case]:
    """Held-out sentences in plain voices at three speeds."""
    plan = (("en", "gmw/en", 150), ("en", "en-us", 175), ("en", "gmw/en", 120), ("de", "de", 150), ("es", "es", 160))
    out = []
    for language, voice, wpm in plan:
        parts = [pause(0.5)]
        for sentence in held_out_sentences(language):
            parts += [maker.espeak.speak(sentence, Voice(voice, wpm)), pause(0.7)]
        out.append(case(f"{voice} {wpm} wpm", join(parts)))
    return out


def human_cases(maker: CorpusMaker, voices: Path) -> list[Case]:
    """The readers kept for testing; their truth is an aligned espeak reading."""
    transcripts = json.loads((voices / "transcripts.json").read_text())
    return [
        case(name, join([pause(0.5), faster(human_speech(maker.espeak, voices / f"{name}.flac", text, language), 1.0)]))
        for name, language in (("reading_de", "de"), ("reading_es", "es"))
        for text in [transcripts[f"{name}.flac"]["text"]]
    ]


def drive_of(maker: CorpusMaker, speech: Speech, latents: int) -> torch.Tensor:
    """Voice-only tokens [latents, 4, 672]."""
    config = maker.mel.config
    frames = 4 * latents - 3
    hops = hops_of_sound(maker.mel, speech.sound, frames)
    voice = np.stack([frame_tokens(hops, frame, config) for frame in range(-3, frames)])
    nothing = np.zeros((len(voice), 2 * len(CHANNELS)), np.float32)
    return torch.from_numpy(np.concatenate([voice, nothing], axis=1)).view(latents, 4, -1)


def load(weights: Path) -> LoadedModel:
    dit = CausalWanDiT.on_meta(EMBEDDED.dit)
    load_weights(dit, weights, torch.device("cpu"), torch.float32)
    return LoadedModel(EMBEDDED, dit.eval().requires_grad_(False), None, None, torch.device("cpu"), torch.float32)


def roll(
    model: LoadedModel, drives: Sequence[torch.Tensor], features: Sequence[NDArray[np.float32]], seeds: Sequence[int],
    chunks: int, rollout: Rollout | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    """Scaled controls [calls, 12 * chunks, 16] of several calls that run together, as their latents hold them, by the
    model's own rollout or another."""
    rollout = rollout or make_rollout(default_spec(EMBEDDED), EMBEDDED)
    runner = ModelRunner(model, slots=len(drives), context=rollout.spec.context)
    assert isinstance(runner.cache, KVCache)
    zero = torch.zeros(EMBEDDED.latent_shape)
    maps = [torch.from_numpy(f)[:, None, None].expand(-1, 2, 2).contiguous() for f in features]
    states = [rollout.new_state(zero, own, seed) for own, seed in zip(maps, seeds, strict=True)]
    held: list[object] = [None] * len(drives)
    out: list[list[torch.Tensor]] = [[] for _ in drives]
    for _ in range(chunks):
        at = states[0].next_latent
        jobs = [
            ChunkJob(rollout.denoise(state, drive[at : at + rollout.drive_latents]), before)  # type: ignore[arg-type]
            for state, drive, before in zip(states, drives, held, strict=True)
        ]
        while jobs[0].next_pass is not None:
            passes = [SlottedPass(slot, job.next_pass) for slot, job in enumerate(jobs) if job.next_pass is not None]
            for job, answer in zip(jobs, runner.run(passes), strict=True):
                job.answer(answer)
        for slot, job in enumerate(jobs):
            assert job.latents is not None
            out[slot].append(unpack_controls(job.latents))
            held[slot] = job.held
    return torch.stack([torch.cat(parts) for parts in out]).numpy()


def unfiltered(rolled: NDArray[np.float32]) -> NDArray[np.float32]:
    """What was rolled as relative controls from a call's first frame on [calls, 12 * chunks - 3, 16]."""
    return np.asarray(rolled[:, FRAMES_PER_LATENT - 1 :] * np.array(SCALES, np.float32))


def shown(rolled: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same as the codec shows it, with the steps between latents smoothed."""
    return unfiltered(deblock(torch.from_numpy(rolled), None).numpy())


def lip_figures(motion: FloatArray, one: Case) -> dict[str, object]:
    """Correlation of each lip channel, the jaw's amplitude and lag, lips at p b m and in pauses."""
    frames = min(len(motion), one.frames)
    made, truth = motion[:frames, :5], one.lips[:frames]
    correlation = {
        name: round(float(np.corrcoef(made[:, i], truth[:, i])[0, 1]), 3) for i, name in enumerate(LIP_CHANNELS)
    }
    lags = {s: float(np.corrcoef(np.roll(made[:, 0], s)[5:-5], truth[5:-5, 0])[0, 1]) for s in range(-4, 5)}
    middles = [int((p.start + p.end) / 2 * FPS) for p in one.speech.phonemes if p.name in ("p", "b", "m")]
    closed = [frame for frame in middles if frame < frames]
    rests = [p for p in join_silences(one.speech.phonemes) if p.name == SILENCE and p.end - p.start > 0.4]
    resting = [f for p in rests for f in range(int((p.start + 0.16) * FPS), int((p.end - 0.16) * FPS)) if f < frames]
    return {
        "r": correlation,
        "jaw_amplitude": round(float(made[:, 0].std() / truth[:, 0].std()), 3),
        "jaw_lag_frames": -max(lags, key=lambda s: lags[s]),
        "jaw_mean": round(float(made[:, 0].mean()), 3),
        "jaw_at_pbm": round(float(made[closed, 0].mean()), 3),
        "press_at_pbm": round(float(made[closed, 3].mean()), 3),
        "jaw_in_pauses": round(float(made[resting, 0].mean()), 3),
    }


def head_figures(motion: FloatArray) -> dict[str, object]:
    """Spread of the head, blinks and jerk at the seams, over calls [S, T, 16]."""
    pose = motion[..., [INDEX[n] for n in HEAD_NAMES]]
    blink = motion[..., INDEX["blinkL"]] > 0.4
    onsets = int((np.diff(blink.astype(int), axis=1) == 1).sum())
    scaled = pose[..., :3] / np.array([SCALES[INDEX[n]] for n in HEAD_NAMES[:3]])
    jerk = (np.diff(scaled, 3, axis=1) ** 2).mean((0, 2))
    # A third difference at t spans frames t .. t+3; a chunk begins at frame 9 + 12 j, the next latent at 13 + 12 j.
    phase = (np.arange(len(jerk)) + 3 - 9) % 12
    seconds = motion.shape[0] * motion.shape[1] / FPS
    return {
        "sd": {n: round(float(pose[..., i].std()), 4) for i, n in enumerate(HEAD_NAMES)},
        "mean": {n: round(float(pose[..., i].mean()), 4) for i, n in enumerate(HEAD_NAMES)},
        "blinks_min": round(60 * onsets / seconds, 1),
        "blink_peak": round(float(np.percentile(motion[..., INDEX["blinkL"]], 99)), 2),
        "jerk": {
            "chunk": round(float(np.sqrt(jerk[phase < 3].mean())), 4),
            "next_latent": round(float(np.sqrt(jerk[(phase >= 4) & (phase < 7)].mean())), 4),
            "all": round(float(np.sqrt(jerk.mean())), 4),
        },
        "seed_correlation_yaw": round(_between(motion[..., INDEX["yaw"]]), 3),
    }


def _between(tracks: FloatArray) -> float:
    """Mean correlation between calls: 1 = the seed does nothing."""
    if len(tracks) < 2:
        return float("nan")
    matrix = np.asarray(np.corrcoef(tracks))
    calls = len(tracks)
    return float((matrix.sum() - calls) / (calls * (calls - 1)))


def truth_heads(one: Case, seeds: int) -> FloatArray:
    """What the data's own process does with the same voice, relative to a straight photograph."""
    decibels = loudness(one.speech.sound, one.frames)
    speaking = speaking_frames(one.speech.phonemes, one.frames)
    rng = np.random.default_rng(5)
    return np.stack([head_tracks(decibels, speaking, rng, HeadStyle()) for _ in range(seeds)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--voices", type=Path, help="human recordings with transcripts.json; none: espeak-ng only")
    parser.add_argument("--portraits", type=Path, help="folder of portraits, or its landmarks.json; none: painted ones")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    maker, model = CorpusMaker(CorpusConfig(), args.voices), load(args.weights)
    try:
        held_out = held_out_landmarks(args.portraits)
    except RequestError as error:
        raise SystemExit(error.message) from error
    cases = synthetic_cases(maker) + (human_cases(maker, args.voices) if args.voices else [])
    chunks = int((args.seconds * FPS + 3) / 12)
    drives = [drive_of(maker, one.speech, 3 * chunks + 1) for one in cases]
    faces = held_out[: len(cases)]
    motion = shown(roll(model, drives, [reference_features(f) for f in faces], range(len(cases)), chunks))
    motion[..., INDEX["jaw"]] += np.array([[f["th"] / (JAW_SPAN * f["mw"])] for f in faces], np.float32)
    for one, made in zip(cases, motion.astype(np.float64), strict=True):
        print(one.name, json.dumps(lip_figures(made, one)), flush=True)
    face = reference_features(held_out[0])
    made = shown(roll(model, [drives[0]] * args.seeds, [face] * args.seeds, range(100, 100 + args.seeds), chunks))
    print("heads", json.dumps(head_figures(made.astype(np.float64))))
    print("data ", json.dumps(head_figures(truth_heads(cases[0], args.seeds)[:, : made.shape[1]])))


if __name__ == "__main__":
    main()
