"""Drive buffer of one call: voice and pose records of any packet size in, drive tokens of any latent out.

Times are the call's media time: sample and frame numbers that never restart. The buffer never waits: it says how far it
is complete. Taking more than that gives silence in place of the missing voice, and its ranges. Knows no model beyond
its fps and its tokens, no clock and no deadline. Its memory is fixed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np
import torch
from numpy.typing import NDArray

from engine.drive.speaker_adaptation import SpeakerAdaptation
from engine.drive.viseme_level import VisemeLevel
from engine.drive.voice import VoiceBuffer
from ground.errors import EngineError
from ground.motion import CHANNELS, INDEX, SCALES
from ground.units import DRIVE_RATE
from models.config import ModelConfig
from models.encoders.mel import LogMelConfig, StreamingLogMel
from models.encoders.visemes import HISTORY, VISEMES, VisemeEstimator, load_viseme_estimator

FloatArray = NDArray[np.float32]

STALE_SECONDS = 0.5  # a pose holds so long after its record
MAX_POSES = 4096  # one for each frame: further ahead than any sender goes

_LOWS = np.array([channel.low for channel in CHANNELS], np.float32)
_HIGHS = np.array([channel.high for channel in CHANNELS], np.float32)
_SCALES = np.array(SCALES, np.float32)


@dataclass(frozen=True, slots=True)
class DriveChunk:
    """tokens: float32 [F, n, d]: features, estimated visemes with the call's vowels and at its level if the model wants
    them, given controls over their scale, and the mask of what is given.
    missing: sample ranges [start, end) that had not come; the features hold silence there. They are reported once."""

    tokens: FloatArray
    missing: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _PoseRecord:
    """NaN = not given."""

    frame: float
    values: tuple[float, ...]


class DriveBuffer(VoiceBuffer):
    """One call's drive. Latent 0 is the call's first; it ends with ``first_frame`` of media time.

    Sound before ``first_frame`` gives the first features their past if it was pushed, and is silence if not.
    Raises EngineError ``no_drive`` for a model without a drive.
    """

    def __init__(
        self, config: ModelConfig, first_frame: int = 0, features: LogMelConfig | None = None,
        estimator: VisemeEstimator | None = None,
    ) -> None:  # fmt: skip
        """estimator: for a model that wants one, None = the shipped one."""
        if not config.dit.drive_dim:
            raise EngineError(
                "no_drive", f"nothing drives the model {config.name}: it is of text alone and takes no calls"
            )
        self._features = StreamingLogMel(features)
        self._mel = self._features.config
        self._fps, self._frames, self._tokens = config.fps, config.frames_per_latent, config.dit.drive_tokens
        self._first_frame = first_frame
        assert self._mel.sample_rate == DRIVE_RATE
        given = config.dit.visemes + 2 * len(CHANNELS)
        assert config.dit.drive_dim == self._mel.token_size + given, "the model wants another kind of drive"
        self._estimator, self._past = None, 0
        if config.dit.visemes:
            assert config.dit.visemes == VISEMES, "the model wants another estimator"
            assert (config.fps, self._tokens) == (25, self._frames), "an estimator hears one token a frame, 25 a second"
            assert HISTORY % self._tokens == 0, "the estimator's history is whole latents"
            self._estimator, self._past = estimator or load_viseme_estimator(), HISTORY // self._tokens
        self._speaker, self._level = SpeakerAdaptation(self._mel), VisemeLevel()
        self._rows = np.zeros((0, config.dit.drive_dim - 2 * len(CHANNELS)), np.float32)  # heard: features, visemes
        self._heard: int | None = None  # the token after the last of them
        self._stale = STALE_SECONDS * config.fps
        super().__init__(
            base=self._sample_of(self._first_hop(0)),
            begin=max(0, first_frame * self._mel.sample_rate // config.fps),
        )
        self._poses: list[_PoseRecord] = []

    def push_pose(self, controls: Mapping[str, float], at: float) -> None:
        """Add a record of absolute controls by channel name that holds from frame ``at`` on; what it does not name is
        not given. Values are clamped; unknown names and values that are no numbers are ignored.

        Of records denser than pictures only the last before each picture, or at it, is kept. A record without a time,
        or beyond room for ``MAX_POSES``, is dropped and counted.
        """
        if not isfinite(at):
            self.counts.dropped_poses += 1
            return
        index = bisect_left(self._poses, ceil(at), key=lambda pose: ceil(pose.frame))
        same_picture = index < len(self._poses) and ceil(self._poses[index].frame) == ceil(at)
        if same_picture and at < self._poses[index].frame:
            return
        if not same_picture and len(self._poses) >= MAX_POSES:
            self.counts.dropped_poses += 1
            return
        values = np.full(len(CHANNELS), np.nan, np.float32)
        for name, value in controls.items():
            if name in INDEX and isfinite(value):
                values[INDEX[name]] = value
        record = _PoseRecord(at, tuple(np.clip(values, _LOWS, _HIGHS).tolist()))
        self._poses[index : index + same_picture] = [record]

    def ready_until(self) -> int:
        """The latent before which all voice has come; or was taken as silence."""
        mel, n = self._mel, self._tokens
        start = (self.complete - mel.window) // mel.hop + 1 - mel.hops_from  # last hop at which a token can begin
        # ``_hop`` of a latent's last token, turned round: its time, in parts of a frame, is at most ``last``.
        last = ((start + 1) * mel.hop * self._fps * n - 1) // mel.sample_rate
        return max(0, (last - (self._first_frame + 1) * n + self._frames) // (self._frames * n) + 1)

    def take(self, first_latent: int, latents: int) -> DriveChunk:
        """The tokens of some latents; may overlap what was taken before, but never begins earlier. Never waits."""
        missing = self.fix(self._needed(first_latent + latents - 1))
        self.drop_before(self._sample_of(self._first_hop(first_latent)))
        times = self._first_frame - self._frames + 1 + self._frames * (
            np.arange(first_latent * self._tokens, (first_latent + latents) * self._tokens) / self._tokens
        )  # fmt: skip
        voice = self._voice(first_latent * self._tokens, (first_latent + latents) * self._tokens)
        tokens = np.concatenate([voice, self._pose_tokens(times)], axis=1)
        self._drop_poses_before(float(times[0]))
        return DriveChunk(tokens.reshape(latents, self._tokens, -1), missing)

    def _voice(self, begin: int, end: int) -> FloatArray:
        """Features, and visemes where there is an estimator, of the tokens [begin, end) of the call: every token
        that is taken is heard once, since what was taken never changes, and kept while it may be taken again or is an
        estimate's past, which is all that tokens are that nobody took.
        """
        past = self._past * self._tokens
        oldest = begin - past
        heard = oldest if self._heard is None else max(oldest, self._heard)
        kept = self._rows if heard == self._heard else self._rows[:0]
        kept = kept[max(0, len(kept) - (heard - oldest)) :]
        assert len(kept) in (0, heard - oldest), "drive that was given up is asked for again"
        if end > heard:
            new = self._features_of(heard, end)
            rows = np.concatenate([kept, np.pad(new, ((0, 0), (0, self._rows.shape[1] - new.shape[1])))])
            if self._estimator is not None:
                unknown = max(past, len(kept))  # of the rows: the first that is still to be told
                with torch.inference_mode():
                    tokens = torch.from_numpy(rows[unknown - past :, : new.shape[1]])
                    visemes = self._estimator(tokens[None])[0].numpy()
                rows[unknown:, new.shape[1] :] = self._level(self._speaker(rows[unknown:, : new.shape[1]], visemes))
            kept, heard = rows, end
        self._rows, self._heard = kept, heard
        return self._rows[past : past + end - begin]

    def _hop(self, latent: int, token: int) -> int:
        """The hop at which a token's time begins: token j of latent l stands at frame 4l - 3 + 4j/n of the call."""
        mel, n = self._mel, self._tokens
        time = (self._first_frame + self._frames * latent - self._frames + 1) * n + self._frames * token
        return time * mel.sample_rate // (mel.hop * self._fps * n)

    def _first_hop(self, latent: int) -> int:
        """The first hop that a latent's tokens are made of; the estimator wants the latents before it as well."""
        return self._hop(latent - self._past, 0) - self._mel.hops_before

    def _sample_of(self, hop: int) -> int:
        """Hops before the call's start are silence, not sound."""
        return max(0, hop) * self._mel.hop

    def _needed(self, latent: int) -> int:
        """Samples, counted from media time 0, that a latent's last token needs."""
        last_hop = self._hop(latent, self._tokens - 1) + self._mel.hops_from - 1
        return max(0, last_hop * self._mel.hop + self._mel.window)

    def _features_of(self, begin: int, end: int) -> FloatArray:
        """Of the tokens [begin, end): [end - begin, token_size]."""
        mel = self._mel
        starts = [self._hop(*divmod(token, self._tokens)) for token in range(begin, end)]
        first_hop = starts[0] - mel.hops_before
        end_hop = starts[-1] + mel.hops_from
        hops = np.full((end_hop - first_hop, mel.mels), mel.silence, np.float32)
        if end_hop > 0:
            begin = self._sample_of(first_hop)
            sound = self.sound(begin, (end_hop - 1) * mel.hop + mel.window)
            hops[max(0, -first_hop) :] = self._features.whole(sound)
        span = mel.hops_before + mel.hops_from
        rows = [start - mel.hops_before - first_hop for start in starts]
        return np.stack([hops[row : row + span].reshape(-1) for row in rows])

    def _pose_tokens(self, times: NDArray[np.float64]) -> FloatArray:
        """[len(times), 2 * channels]: values over their scales, 0 where not given, and the mask."""
        values = np.array([self._pose_at(float(time)) for time in times], np.float32)
        given = np.isfinite(values)
        return np.concatenate([np.where(given, values / _SCALES, 0.0), given], axis=1, dtype=np.float32)

    def _pose_at(self, time: float) -> FloatArray:
        """Absolute controls at a frame time, NaN = not given: on the line between two records near each other, else the
        last one until it is stale."""
        after = bisect_right(self._poses, time, key=lambda pose: pose.frame)
        nothing = np.full(len(CHANNELS), np.nan, np.float32)
        if after == 0 or time - self._poses[after - 1].frame > self._stale:
            return nothing
        last = self._poses[after - 1]
        held = np.array(last.values, np.float32)
        if after == len(self._poses) or self._poses[after].frame - last.frame > self._stale:
            return held
        following = self._poses[after]
        weight = (time - last.frame) / (following.frame - last.frame)
        between = held + np.float32(weight) * (np.array(following.values, np.float32) - held)
        return np.where(np.isfinite(between), between, held)

    def _drop_poses_before(self, time: float) -> None:
        """Keep the record that still holds at ``time``."""
        last = bisect_right(self._poses, time, key=lambda pose: pose.frame) - 1
        if last > 0:
            del self._poses[:last]


def lookahead_ms(config: ModelConfig) -> float:
    """Voice that the last token of a latent needs beyond the end of the latent's last frame; a speech encoder's
    features need none."""
    if config.dit.audio is not None:
        return 0.0
    mel = LogMelConfig()
    token_ms = 1000 * config.frames_per_latent / (config.dit.drive_tokens * config.fps)
    return 1000 * mel.reach_samples / mel.sample_rate - token_ms
