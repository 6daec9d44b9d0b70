"""GPU benchmark suite in one run of ten minutes: `python -m benchmarks.speed.gpu --out DIR`.

Needs torch, numpy, OpenCV and safetensors. Groups of steps, most valuable first; --only runs some of them. DIR/gpu.json
is written anew after every step. A step that fails leaves the last lines of its traceback there, one for which no time
is left (--seconds) "not run", and the next steps run all the same. To keep a run, copy its gpu.json unchanged into
`benchmarks/results/`.
"""

import argparse
import json
import logging
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.chunks import ceilings, codec_of, memory_mb, new_peak
from benchmarks.speed.parts import VARIANTS, Bench, Variant, compare, consumer_cards, pictures
from engine.worker.runner import choose_attention, execution_of
from ground.errors import one_line_errors
from models.codecs.wan import DECODERS
from models.config import EMBEDDED, WAN21_1_3B, WAN21_14B, ModelConfig
from models.memory import GIB, plan
from models.presets import PRESETS, with_preset
from models.registry import LoadedModel, build_model, choose_device, choose_dtype
from training.arguments import at_least, new_folder

log = logging.getLogger(__name__)

SIZES = ((832, 480), (512, 512))
CARDS_GIB = (8, 12, 16, 24)
PLAIN, RECORDED, COMPILED = "plain passes, joined", "graphs, fused", "all (compiled too)"
CARD_COMMAND = (sys.executable, "-m", "benchmarks.speed.small_card")
CHILD_S = 150  # timeout of a child process, seconds


class StepJournal:
    """Report that is saved after every step, and the end of the time for steps."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.report = path, {}  # type: Path, dict[str, Any]
        self.note = ""
        self.ends = time.monotonic() + seconds

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Run a step and keep its result. None if it failed or was not run."""
        if time.monotonic() > self.ends:
            self.keep(name, "not run")
            print(f"{name}: not run", flush=True)
            return None
        began = time.monotonic()
        try:
            result = work()
        except Exception:
            log.exception("%s failed", name)
            self.keep(name, {"error": traceback.format_exc().strip().splitlines()[-6:]})
            result = None
        else:
            self.keep(name, result)
        print(f"{name} ({time.monotonic() - began:.1f} s): {json.dumps(self.report[name])}", flush=True)
        return result

    def keep(self, name: str, result: Any) -> None:
        self.report[name] = result
        self.path.write_text(json.dumps({"note": self.note, "gpu": self.report}, indent=1))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Settings and journal of all groups. rounds: timed chunks of a variant. chunks: of the long call. stand_in: a
    small model with small pictures in place of each full-size one, for a test."""

    journal: StepJournal
    device: torch.device
    rounds: int
    chunks: int
    stand_in: ModelConfig | None = None

    def load(self, name: str, config: ModelConfig) -> LoadedModel | None:
        """A model with random weights; the journal gets the seconds. None if that failed. A video model comes without
        its codec, because decoders are measured separately."""
        made: list[LoadedModel] = []

        def work() -> str:
            new_peak(self.device)
            began = time.monotonic()
            model = build_model(config, self.device, choose_dtype("auto", self.device), None)
            made.append(model if config.codec == "motion" else replace(model, codec=None))
            return f"{time.monotonic() - began:.1f} s"

        self.journal.step(f"load {name}", work)
        return made[0] if made else None

    def video(self, config: ModelConfig) -> ModelConfig:
        return self.stand_in or config

    def bench(self, model: LoadedModel, label: str, size: tuple[int, int]) -> Bench:
        """A video model at a size in pixels, with the attention kernel that is fastest there."""
        bench = Bench(replace(model, config=model.config.at_size(*((32, 32) if self.stand_in else size))))
        self.journal.step(f"{label}: attention ms", partial(attention, bench))
        return bench

    def compared(self, bench: Bench, label: str, names: list[str], rounds: int) -> None:
        """Measure variants, denoising only, each beside the textbook."""
        for name in names:
            self.journal.step(f"{label}: {name}", partial(compare, bench, VARIANTS[name], rounds))

    def fastest(self, bench: Bench, label: str) -> str | None:
        """Name of the fastest variant so far. The journal gets the real-time factors predicted from it for other
        cards."""
        report = self.journal.report
        best = bench.best(report, label)
        if best is not None and "matmul_tflops" in report["machine"]:
            fraction = report[f"{label}: {best}"]["tflops"] / report["machine"]["matmul_tflops"]
            cards = partial(consumer_cards, bench, fraction)
            self.journal.step(f"{label}: predicted realtime factor, at {fraction:.2f} of a card's ceiling", cards)
        return best


def machine(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "memory_gib": round(torch.cuda.get_device_properties(device).total_memory / GIB, 1) if cuda else None,
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        **ceilings(device, choose_dtype("auto", device)),
    }


def attention(bench: Bench) -> dict[str, float]:
    return {name: round(ms, 3) for name, ms in choose_attention(bench.model, bench.rollout).items()}


def room(device: torch.device) -> float:
    """GiB that this process still holds after it has freed unused memory."""
    new_peak(device)
    return round(memory_mb(device) / 1024, 2)


def whole_chunks(bench: Bench) -> Bench:
    """The same with a decoder that takes all latents of a chunk at once."""
    config = bench.model.config
    vae = replace(config.vae, at_once=bench.rollout.spec.chunk)
    return Bench(replace(bench.model, config=replace(config, vae=vae), codec=None))


def shown(bench: Bench, variant: Variant, kind: str, rounds: int, ends: float) -> dict[str, Any]:
    return pictures(bench, bench.runner(variant), codec_of(bench.model, kind), rounds, ends)


def base(measurement: Measurement) -> None:
    """The 1.3B: denoising only, then end to end with each decoder."""
    model = measurement.load("1.3B", measurement.video(WAN21_1_3B))
    if model is None:
        return
    for size in SIZES:
        label = "1.3B {}x{}".format(*size)
        bench = measurement.bench(model, label, size)
        measurement.compared(bench, label, [RECORDED, COMPILED], measurement.rounds)
        best = measurement.fastest(bench, label)
        if best is None:
            continue
        bench, chunks = Bench(bench.model), 2 * measurement.rounds  # a new bench, without the baseline's memory
        for kind in DECODERS:
            work = partial(shown, bench, VARIANTS[best], kind, chunks, measurement.journal.ends)
            measurement.journal.step(f"{label}: decoder {kind}, {best}", work)
        work = partial(shown, whole_chunks(bench), VARIANTS[best], "wan", chunks, measurement.journal.ends)
        measurement.journal.step(f"{label}: decoder wan, a chunk's latents at once, {best}", work)


def cards(measurement: Measurement) -> None:
    """The smallest card for each preset. The search begins with the card that the plan names. A card is not tried if a
    smaller one was large enough, or a larger one too small."""
    measurement.journal.step("memory: this process beside the children, GiB", partial(room, measurement.device))
    config = measurement.video(WAN21_1_3B)
    for preset in ("realtime",) if measurement.stand_in else PRESETS:
        made, held = plan(with_preset(config, preset), 1), dict[int, bool]()
        planned = next((gib for gib in CARDS_GIB if made.fits(gib * GIB)), CARDS_GIB[-1])
        for gib in sorted(CARDS_GIB, key=lambda each: abs(each - planned)):
            if not any(holds == (known < gib) for known, holds in held.items()):
                work = partial(on_card, config.name, preset, gib, measurement.device)
                found = measurement.journal.step(f"memory: {preset} in {gib} GiB", work)
                if found is not None:
                    held[gib] = found["holds"]


def on_card(model: str, preset: str, gib: int, device: torch.device) -> dict[str, Any]:
    """Report of `benchmarks.speed.small_card`, run in a process of its own, so that nothing else holds its memory."""
    words = ["--model", model, "--preset", preset, "--gib", str(gib), "--device", str(device)]
    child = subprocess.run([*CARD_COMMAND, *words], capture_output=True, text=True, timeout=CHILD_S)
    if child.returncode != 0:
        raise RuntimeError((child.stderr.strip().splitlines() or [f"it ended with {child.returncode}"])[-1])
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def endurance(measurement: Measurement) -> None:
    """A long call with the engine's own execution, as many chunks as the time allows."""
    model = measurement.load("1.3B for long", measurement.video(WAN21_1_3B))
    if model is not None:
        label = "1.3B 512x512"
        bench, variant = measurement.bench(model, label, (512, 512)), Variant(execution_of(model))
        work = partial(shown, bench, variant, "wan-tiny", measurement.chunks, measurement.journal.ends)
        measurement.journal.step(f"{label}: many chunks, decoder wan-tiny", work)


def large(measurement: Measurement) -> None:
    """The 14B, denoising only."""
    model = measurement.load("14B", measurement.video(WAN21_14B))
    if model is None:
        return
    for size in SIZES:
        label = "14B {}x{}".format(*size)
        bench = measurement.bench(model, label, size)
        measurement.compared(bench, label, [COMPILED], max(1, measurement.rounds // 2))
        measurement.fastest(bench, label)


def ablation(measurement: Measurement) -> None:
    """The other variants of the 1.3B's passes."""
    model = measurement.load("1.3B for the ablation", measurement.video(WAN21_1_3B))
    if model is not None:
        label, names = "1.3B 832x480", [name for name in VARIANTS if name not in (RECORDED, COMPILED)]
        measurement.compared(measurement.bench(model, label, SIZES[0]), label, names, max(1, measurement.rounds // 2))


def embedded(measurement: Measurement) -> None:
    model = measurement.load("embedded", EMBEDDED.at_size(128, 128) if measurement.stand_in else EMBEDDED)
    if model is not None:
        measurement.compared(Bench(model), "embedded", [RECORDED, PLAIN], 4 * measurement.rounds)


GROUPS: dict[str, Callable[[Measurement], None]] = {
    "1.3b": base,
    "memory": cards,
    "endurance": endurance,
    "14b": large,
    "ablation": ablation,
    "embedded": embedded,
}


def run(arguments: argparse.Namespace, stand_in: ModelConfig | None) -> None:
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = choose_device(arguments.device)
    journal = StepJournal(arguments.out / "gpu.json", arguments.seconds)
    journal.note = (
        "python -m benchmarks.speed.gpu: random weights, c=3, k=1, L=6, 4 steps, 12 frames a chunk, milliseconds a "
        "chunk; variants are denoise only and stand beside the textbook rollout of the same run; decoders: end to end "
        "to I420 in host memory."
    )
    journal.step("machine", partial(machine, device))
    measurement = Measurement(journal, device, arguments.rounds, arguments.chunks, stand_in)
    for name, group in GROUPS.items():
        if not arguments.only or name in arguments.only:
            group(measurement)


def main(words: Sequence[str] | None = None, stand_in: ModelConfig | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=at_least(1.0), default=540.0, help="after them no further step begins")
    parser.add_argument("--out", type=new_folder, required=True)
    parser.add_argument("--only", action="append", choices=GROUPS, default=[], help="only this group; may be repeated")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--rounds", type=at_least(1), default=6, help="timed chunks of each variant, and of the baseline"
    )
    parser.add_argument("--chunks", type=at_least(1), default=1000, help="of the long call, as far as time allows")
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors("benchmarks.speed.gpu"):
        run(arguments, stand_in)


if __name__ == "__main__":
    main()
