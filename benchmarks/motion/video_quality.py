"""Video quality by VBench's definitions (Huang et al., CVPR 2024), the columns of the paper's Table 1.

Temporal flickering is computed here, because it needs no weights: the mean absolute difference of consecutive 8-bit
frames over all pixels, channels and pairs, mapped to (255 - mean) / 255 and averaged over clips; 1 is a still picture.
It does not distinguish flicker from motion, so VBench measures it on static clips (prompts of static scenes; moving
clips are removed by optical flow). The paper's Table 1 gives it in per cent (98.50 for Knot Forcing, 97.23 for Self
Forcing) over 300 portrait prompts, and does not say whether moving clips were removed. Compare only clips with similar
motion.

The other columns come from the package `vbench` with its own weights, if both are installed; nothing is downloaded.

    python -m benchmarks.motion.video_quality clip.mp4
    python -m benchmarks.motion.video_quality CLIPS/ --vbench-weights ~/.cache/vbench --json
"""

import importlib.util
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.motion.command import make_parser
from ground.errors import MediaError, one_line_errors

Frame = NDArray[np.uint8]
CLIPS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
PICTURES = (".png", ".jpg", ".jpeg")

# VBench's dimensions that apply to any clip, and the files that its local mode expects below its cache.
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "subject_consistency": ("dino_model/facebookresearch_dino_main", "dino_model/dino_vitbase16_pretrain.pth"),
    "background_consistency": ("clip_model/ViT-B-32.pt",),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "aesthetic_quality": ("clip_model/ViT-L-14.pt", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    "imaging_quality": ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
}


def clips_in(path: Path) -> list[Path]:
    """A clip, a folder of clips, or a folder of pictures that are one clip. Raises MediaError for anything else."""
    if path.is_file() and path.suffix.lower() in CLIPS:
        return [path]
    if path.is_dir():
        clips = sorted(each for each in path.iterdir() if each.suffix.lower() in CLIPS)
        if clips:
            return clips
        if any(each.suffix.lower() in PICTURES for each in path.iterdir()):
            return [path]
    raise MediaError("no_clips", f"{path} is neither a clip ({', '.join(CLIPS)}) nor a folder of clips or pictures")


def frames_of(clip: Path) -> Iterator[Frame]:
    """Frames [H, W, 3], uint8 BGR, in order. Raises MediaError."""
    if clip.is_dir():
        for picture in sorted(each for each in clip.iterdir() if each.suffix.lower() in PICTURES):
            frame = cv2.imread(str(picture))
            if frame is None:
                raise MediaError("unreadable_picture", f"{picture.name} is not a readable picture")
            yield np.asarray(frame, np.uint8)
        return
    video = cv2.VideoCapture(str(clip))
    try:
        while (read := video.read())[0]:
            yield np.asarray(read[1], np.uint8)
    finally:
        video.release()


def temporal_flickering(frames: Iterator[Frame] | Sequence[Frame]) -> float:
    """VBench's score of one clip, 0..1. Raises MediaError for fewer than two frames, or frames of different sizes."""
    differences = []
    for before, after in itertools.pairwise(frames):
        if before.shape != after.shape:
            raise MediaError("mixed_sizes", "the frames of one clip must have one size")
        differences.append(float(cv2.absdiff(before, after).mean()))
    if not differences:
        raise MediaError("no_frames", "a clip needs at least two readable frames")
    return (255.0 - float(np.mean(differences))) / 255.0


def missing(dimension: str, weights: Path) -> str:
    """Reason why a dimension of VBench cannot be computed here; empty if it can."""
    if importlib.util.find_spec("vbench") is None:
        return "the package vbench is not installed (pip install vbench)"
    absent = [name for name in DIMENSIONS[dimension] if not (weights / name).exists()]
    return f"{', '.join(absent)} not found under {weights}" if absent else ""


def vbench_scores(folder: Path, dimensions: Sequence[str], weights: Path) -> dict[str, float]:
    """Scores of a folder of clips by the package's own evaluation, with local weights only."""
    os.environ["VBENCH_CACHE_DIR"] = str(weights)  # read when the package is imported
    import torch
    import vbench  # type: ignore[import-not-found,unused-ignore]

    table = Path(str(vbench.__file__)).parent / "VBench_full_info.json"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as out:
        judge = vbench.VBench(device, str(table), out)
        judge.evaluate(
            videos_path=str(folder), name="clips", dimension_list=list(dimensions), local=True, mode="custom_input"
        )
        found = json.loads((Path(out) / "clips_eval_results.json").read_text())
    return {dimension: float(found[dimension][0]) for dimension in dimensions}


def run(path: Path, weights: Path) -> dict[str, object]:
    """Report of the scores. A dimension that cannot be computed has a line about what is missing."""
    clips = clips_in(path)
    flickering = float(np.mean([temporal_flickering(frames_of(clip)) for clip in clips]))
    report: dict[str, object] = {"clips": len(clips), "temporal_flickering": round(flickering, 5)}
    reasons = {dimension: missing(dimension, weights) for dimension in DIMENSIONS}
    if clips[0].is_dir():
        reasons = dict.fromkeys(DIMENSIONS, "vbench needs clips, not a folder of pictures")
    there = [dimension for dimension, reason in reasons.items() if not reason]
    scores = vbench_scores(path, there, weights) if there else {}
    return report | {name: round(scores[name], 5) if name in scores else reasons[name] for name in DIMENSIONS}


def main(words: Sequence[str] | None = None) -> None:
    parser = make_parser("video_quality", __doc__)
    parser.add_argument("clips", type=Path, help="a clip, a folder of clips, or a folder of pictures")
    parser.add_argument(
        "--vbench-weights", type=Path, default=Path.home() / ".cache" / "vbench", help="default: ~/.cache/vbench"
    )
    arguments = parser.parse_args(words)
    with one_line_errors("benchmarks.motion.video_quality"):
        report = run(arguments.clips, arguments.vbench_weights)
    print(json.dumps(report) if arguments.json else "\n".join(f"{key:24} {value}" for key, value in report.items()))


if __name__ == "__main__":
    main()
