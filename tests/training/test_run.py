"""Runs: resumed equals uninterrupted, two processes equal one, Wan2.1's weights are the first step, the command."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cli.main import app
from ground.errors import RequestError
from ground.motion import REFERENCE_FEATURES
from models.config import WAN21_1_3B, WAN21_T2V_1_3B
from models.dit.attention import BlockMask, FrameRuns, attend, token_mask
from models.dit.transformer import CausalWanDiT
from models.encoders.visemes import VisemeEstimator
from models.registry import load_weights
from tests.clips import CPU, TINY, random_model
from tests.parallel_run import RUNS, STAGES, trainer
from training import checkpoint
from training.configs import PRESETS, WAN_TINY, with_size
from training.data.synthetic.corpus import HEAD_TAIL
from training.journal import Journal
from training.latents import LatentFolder, write_clip
from training.parallel import World
from training.plan import memory, values
from training.self_rollout import FrameView
from training.sequence import Layout, frame_mask
from training.start import fill, read_weights
from training.trainer import rate_factor

ALONE = World(CPU)


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    whole = trainer(name, tmp_path / "whole", ALONE)
    whole.run()
    first = trainer(name, tmp_path / "parts", ALONE)
    for _ in range(2):
        first.advance()
    first.save()
    first.advance()  # and is killed before the next checkpoint
    second = trainer(name, tmp_path / "parts", ALONE)
    assert second.step == 2
    second.run()
    assert second.step == whole.step == 4
    finished, resumed = load_file(whole.checkpoint), load_file(second.checkpoint)
    assert finished.keys() == resumed.keys()
    assert any(key.startswith("critic_optimiser.") for key in finished) == (name == "distill")
    for key, value in finished.items():
        assert torch.equal(value, resumed[key]), key


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    for name in RUNS:
        trainer(name, tmp_path / "one", ALONE).run()
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.parallel_run"]
    subprocess.run([sys.executable, *command, tmp_path / "two"], check=True, timeout=170, capture_output=True)
    for name in RUNS:
        one, two = (
            [json.loads(line) for line in (tmp_path / run / name / "log.jsonl").read_text().splitlines()]
            for run in ("one", "two")
        )
        for a, b in zip(one, two, strict=True):
            figures = {key for key in a if key.endswith("loss")}
            assert figures and figures == {key for key in b if key.endswith("loss")}
            assert all(a[key] == pytest.approx(b[key], rel=1e-3, abs=2e-5) for key in figures), (name, a, b)
        alone, together = (load_file(tmp_path / run / name / "checkpoint.safetensors") for run in ("one", "two"))
        assert alone.keys() == together.keys()
        assert torch.equal(alone["generator"], together["generator"])


def test_hours_end_a_run_at_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer("base", tmp_path, ALONE)
    run.config = replace(run.config, hours=0.0)
    run.run()
    assert run.step == run.config.save_every < run.config.steps and run.checkpoint.exists()
    left = {path: path.read_bytes() for path in run.folder.rglob("*.*")}
    again = trainer("base", tmp_path, ALONE)
    again.config = replace(again.config, hours=0.0, steps=100)
    again.run()
    assert "nothing left to do: 2 of 100 steps, and the 0 hours are over" in capsys.readouterr().out
    assert again.step == run.step and {path: path.read_bytes() for path in run.folder.rglob("*.*")} == left
    again.config = replace(again.config, hours=1.0, steps=3)
    again.run()
    assert again.step == 3, "with more hours it goes on"


def test_a_run_along_paths_is_extended_from_within_one(tmp_path: Path) -> None:
    for steps in (3, 6):  # a path serves two
        run = trainer("causal-ode", tmp_path, ALONE)
        run.config = replace(run.config, steps=steps)
        run.run()
        assert run.step == steps


def test_the_spread_is_measured_by_a_run_that_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, measured = trainer("causal-ode", tmp_path, ALONE), []
    monkeypatch.setattr(type(run.family), "stretched", lambda _: measured.append(run.step))
    assert not measured
    run.run()
    assert measured == [0], "once"
    trainer("causal-ode", tmp_path, ALONE).run()
    assert measured == [0], "it has ended"


def test_uneven_pieces_are_refused() -> None:
    with pytest.raises(RequestError, match="3 clips do not divide among 2 processes"):
        replace(ALONE, size=2).share(3)
    with pytest.raises(RequestError, match="batch of 32 does not divide into 5"):
        replace(PRESETS["base-cpu"], accumulate=5)


def test_rate_rises_and_falls() -> None:
    config = PRESETS["causal-cpu"]
    rates = [rate_factor(step, config) for step in range(config.steps)]
    peak = int(np.argmax(rates))
    assert 0 < peak < 0.1 * config.steps and rates[peak] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(config.final_rate, abs=1e-3)


def test_export_is_bf16_and_loads_as_the_engine_loads_it(tmp_path: Path) -> None:
    run = trainer("causal", tmp_path, ALONE)
    checkpoint.export(run.state.ema, tmp_path / "dit.safetensors", {"model": "tiny"})
    dit = CausalWanDiT.on_meta(run.config.model.dit)
    load_weights(dit, tmp_path / "dit.safetensors", CPU, torch.float32)
    assert all(value.dtype == torch.float32 for value in dit.state_dict().values())


def test_a_journal_forgets_what_came_after_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path, 0)
    for step in (1, 2, 3):
        journal.write({"step": step, "loss": 0.5, "error": {"jaw": 1.0}})
    assert "jaw" not in capsys.readouterr().out
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # torn by a kill
    Journal(tmp_path, 2).write({"step": 3, "loss": 0.25})
    assert [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [0.5, 0.5, 0.25]


def test_curves_go_to_tensorboard_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert folder == str(tmp_path / "tensorboard") and purge_step == 6

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

    board = type(sys)("torch.utils.tensorboard")
    board.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    Journal(tmp_path, 5).write({"step": 6, "loss": 0.5, "error": {"jaw": 1.0}})
    assert written == [("step", 6, 6), ("loss", 0.5, 6)]


def official(dim: int, ffn: int, text: int, layers: int, frequency: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of Wan2.1-T2V's checkpoint at another size."""
    linear = {"q": (dim, dim), "k": (dim, dim), "v": (dim, dim), "o": (dim, dim)}
    shapes: dict[str, tuple[int, ...]] = {"patch_embedding.weight": (dim, 16, 1, 2, 2), "patch_embedding.bias": (dim,)}

    def add(name: str, out: int, into: int) -> None:
        shapes.update({f"{name}.weight": (out, into), f"{name}.bias": (out,)})

    add("text_embedding.0", dim, text)
    add("text_embedding.2", dim, dim)
    add("time_embedding.0", dim, frequency)
    add("time_embedding.2", dim, dim)
    add("time_projection.1", 6 * dim, dim)
    add("head.head", 64, dim)
    shapes["head.modulation"] = (1, 2, dim)
    for n in range(layers):
        shapes[f"blocks.{n}.modulation"] = (1, 6, dim)
        shapes |= {f"blocks.{n}.norm3.weight": (dim,), f"blocks.{n}.norm3.bias": (dim,)}
        add(f"blocks.{n}.ffn.0", ffn, dim)
        add(f"blocks.{n}.ffn.2", dim, ffn)
        for attention in ("self_attn", "cross_attn"):
            for name, (out, into) in linear.items():
                add(f"blocks.{n}.{attention}.{name}", out, into)
            shapes |= {f"blocks.{n}.{attention}.{norm}.weight": (dim,) for norm in ("norm_q", "norm_k")}
    return shapes


def test_the_official_keys_are_ours_at_full_size() -> None:
    own = {name: tuple(value.shape) for name, value in CausalWanDiT.on_meta(WAN21_T2V_1_3B).state_dict().items()}
    shapes = official(1536, 8960, 4096, 30, 256)
    assert len(shapes) == 825 and own == shapes


def test_the_first_step_from_wans_weights_is_wans(tmp_path: Path) -> None:
    """With any condition and drive, which it has never seen: the same answer, because they add nothing yet."""
    generator = torch.Generator().manual_seed(0)
    dit = WAN_TINY.dit
    shapes = official(dit.dim, dit.ffn_dim, 24, dit.layers, dit.frequency_dim)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({n: 0.2 * torch.randn(s, generator=generator) for n, s in shapes.items()}, path)
    plain = CausalWanDiT(replace(dit, inpainting=False, drive_dim=0, drive_tokens=0, drive_blocks=()))
    plain.load_state_dict(load_file(path))
    model = CausalWanDiT(dit)
    fill(model, read_weights(path))
    latents, sigmas = torch.randn(2, 5, 16, 4, 4), torch.rand(2, 5)
    text, at = torch.randn(2, 7, 24), torch.arange(5).expand(2, -1)
    with torch.no_grad():
        wan = plain(latents, sigmas, None, None, plain.encode_text(text), BlockMask(), at)
        ours = model(latents, sigmas, torch.randn(2, 5, 17, 4, 4), torch.randn(2, 5, 2, 16), text, BlockMask(), at)
    torch.testing.assert_close(ours, wan)

    broken = load_file(path)
    broken["blocks.1.ffn.0.weight"] = broken["blocks.1.ffn.0.weight"][:-1].contiguous()
    del broken["head.modulation"]
    with pytest.raises(RequestError, match="2 tensors differ, the first is blocks.1.ffn.0.weight"):
        fill(model, broken)
    with pytest.raises(RequestError, match="no checkpoint"):
        read_weights(tmp_path / "nothing.safetensors")


def test_runs_of_frames_equal_the_mask_over_tokens() -> None:
    mask = frame_mask(Layout(PRESETS["causal-cpu"].rollout, 4))
    frames, tokens = len(mask), 3
    q, k, v = torch.randn(3, 2, frames * tokens, 2, 8).unbind(0)
    runs = FrameRuns.of(mask)
    assert len(runs.runs) < frames
    torch.testing.assert_close(attend(q, k, v, runs), attend(q, k, v, token_mask(mask, tokens)))


def write_latents(folder: Path, clips: int = 3) -> None:
    folder.mkdir()
    dit = WAN_TINY.dit
    for i in range(clips):
        tensors = {
            "latents": torch.full((22, *WAN_TINY.latent_shape), float(i)),
            "drive": torch.randn(22, dit.drive_tokens, dit.drive_dim),
            "portrait": torch.randn(WAN_TINY.latent_shape),
        }
        if i:
            tensors["text"] = torch.randn(512, 24)
        write_clip(folder / f"{i}.safetensors", tensors)


def test_a_folder_of_latents_gives_each_process_its_rows(tmp_path: Path) -> None:
    write_latents(tmp_path / "clips")

    def opened() -> LatentFolder:
        return LatentFolder(tmp_path / "clips", WAN_TINY, 22, (22, 44), seed=3)

    whole = opened().batch(0, 64)
    assert whole.latents.shape == (64, 22, 16, 4, 4) and whole.text is not None and whole.text.shape == (64, 512, 24)
    assert whole.reference.min() >= 22 and whole.reference.max() <= 43 and len(whole.reference.unique()) > 10
    which = whole.latents[:, 0, 0, 0, 0]
    assert which.unique().tolist() == [0, 1, 2]
    assert (whole.text[which == 0] == 0).all() and (whole.text[which == 1] != 0).any(), "no text is an empty prompt"
    parts = [opened().batch(0, 64, share) for share in (slice(0, 32), slice(32, 64))]
    assert torch.equal(torch.cat([part.drive for part in parts]), whole.drive)


def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no"):
        LatentFolder(tmp_path, WAN_TINY, 22, (22, 44), 0)
    write_latents(tmp_path / "clips")
    with pytest.raises(RequestError, match=r"0.safetensors: latents is \(22, .*this stage takes \(21, 16, 4, 4\)"):
        LatentFolder(tmp_path / "clips", WAN_TINY, 21, (22, 44), 0)
    with pytest.raises(RequestError, match=r"this stage takes \(22, 16, 60, 104\)"):
        LatentFolder(tmp_path / "clips", WAN21_1_3B, 22, (22, 44), 0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("latents", torch.zeros(44, *WAN_TINY.latent_shape), r"latents is \(44, 16, 4, 4\)"),
        ("drive", torch.zeros(21, 2, 16), r"drive is \(21, 2, 16\), this stage takes \(22, 2, 16\)"),
        ("portrait", torch.zeros(1, *WAN_TINY.latent_shape), r"portrait is \(1, 16, 4, 4\)"),
        ("text", torch.zeros(7, 24), r"text is \(7, 24\), this stage takes \(512, 24\)"),
    ],
)
def test_every_clip_of_a_folder_must_fit(name: str, value: torch.Tensor, message: str, tmp_path: Path) -> None:
    write_latents(tmp_path / "clips")
    last = tmp_path / "clips" / "2.safetensors"
    write_clip(last, load_file(last) | {name: value})
    with pytest.raises(RequestError, match=f"2.safetensors: {message}"):
        LatentFolder(tmp_path / "clips", WAN_TINY, 22, (22, 44), 0)


def test_the_plan_counts_every_parameter_and_what_backward_keeps() -> None:
    config = PRESETS["wan-1.3b-base"]
    wan = sum(int(np.prod(shape)) for shape in official(1536, 8960, 4096, 30, 256).values())
    assert wan == 1_418_996_800 and values(config) > wan
    one, eight = memory(config, 1), memory(config, 8)
    assert one.parameters == one.gradients == one.ema == 4 * values(config) and one.optimiser == 8 * values(config)
    assert eight.optimiser * 8 == one.optimiser and eight.activations == one.activations
    gathered = 3 * 4 * (values(config) // 30)
    assert eight.total - eight.activations == (one.total - one.activations) // 8 + gathered
    distill = memory(PRESETS["wan-1.3b-distill"], 1)
    assert distill.parameters == 3 * one.parameters, "generator, critic and the frozen base"
    assert distill.gradients == one.gradients, "one network at a time"
    plain = memory(replace(config, recompute=False), 1)
    assert plain.activations > 10 * one.activations


def test_what_backward_keeps_is_what_the_plan_says() -> None:
    from training.plan import BLOCK_BYTES

    dim, frames = 192, 16

    def kept(layers: int) -> int:
        model = random_model(replace(WAN_TINY, dit=replace(WAN_TINY.dit, dim=dim, layers=layers, ffn_dim=1120)))
        model.requires_grad_(True)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        seen: dict[int, torch.Tensor] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in own and tensor.shape[-1] != tensor.shape[0]:
                seen[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda t: t),
            torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
        ):
            model(
                torch.randn(1, frames, 16, 16, 16), torch.rand(1, frames), torch.randn(1, frames, 17, 16, 16),
                torch.randn(1, frames, 2, 16), torch.randn(1, 8, 24), BlockMask(), torch.arange(frames)[None],
            )  # fmt: skip
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())

    measured = (kept(3) - kept(2)) / (frames * 64) / dim
    assert measured == pytest.approx(BLOCK_BYTES, rel=0.2)


def test_what_a_rollout_caches_is_what_the_plan_says() -> None:
    from training.plan import CACHED_BYTES

    view = FrameView([], torch.zeros(1, 0), keep=True)
    dit, frames = WAN_TINY.dit, 3
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        random_model(WAN_TINY)(
            torch.randn(1, frames, 16, 4, 4), torch.rand(1, frames), torch.randn(1, frames, 17, 4, 4),
            torch.randn(1, frames, 2, 16), torch.randn(1, 8, 24), view, torch.arange(frames)[None],
        )  # fmt: skip
    kept = sum(tensor.nbytes for written in view.written for tensor in written)
    assert kept == CACHED_BYTES * frames * WAN_TINY.tokens_per_latent * dit.dim * dit.layers


def make_corpus(folder: Path) -> list[str]:
    """One session of 200 frames, and 60 portraits (40 are set aside)."""
    rng = np.random.default_rng(0)
    frames = 200
    np.savez(
        folder / "corpus.npz", frames=np.array([frames]), hops=rng.normal(size=(4 * frames + 8, 40)).astype(np.float16),
        lips=rng.random((frames, 5)).astype(np.float16),
        heads=rng.normal(size=(2, frames + HEAD_TAIL, 11)).astype(np.float16) * 0.05,
    )  # fmt: skip
    face = dict.fromkeys(REFERENCE_FEATURES, 0.1) | {"th": 0.02, "mw": 0.2}
    (folder / "landmarks.json").write_text(json.dumps({f"{i}.jpg": face for i in range(60)}))
    return ["--data", str(folder / "corpus.npz"), "--portraits", str(folder / "landmarks.json")]


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train", *arguments])
    return result.exit_code, result.output


def test_the_stages_by_the_command(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    made = {name: str(tmp_path / name / "checkpoint.safetensors") for name in RUNS}
    given = {
        "base": [], "causal": ["--start", made["base"]], "causal-ode": ["--teacher", made["causal"]],
        "distill": ["--start", made["causal-ode"], "--teacher", made["base"]],
        "fine-tune": ["--start", made["distill"]],
    }  # fmt: skip
    for name in RUNS:
        stage = name if name in ("base", "distill") else "causal"
        code, output = command(
            stage, "--config", f"{name}-smoke", *data, *given[name], "--out", str(tmp_path / name),
            "--device", "cpu",
        )  # fmt: skip
        assert code == 0, output
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        assert all(np.isfinite(line.get("loss", 0.0)) for line in lines)
        assert (tmp_path / name / "sheets" / "0000004.png").stat().st_size > 10_000
        code, output = command(stage, "--config", f"{name}-smoke", *data, *given[name], "--out", str(tmp_path / name))
        assert code == 0 and '"step"' not in output, "a finished run has nothing left to do"
        assert "nothing left to do: 4 of 4 steps\n" in output


def test_visemes_are_by_the_estimator_that_is_named(tmp_path: Path) -> None:
    data, own, words = make_corpus(tmp_path), tmp_path / "own.safetensors", tmp_path / "words.safetensors"
    save_file(VisemeEstimator().state_dict(), own)
    words.write_bytes(b"no tensors")

    def base(*visemes: str) -> tuple[int, str]:
        return command("base", "--config", "base-smoke", *data, "--out", str(tmp_path / "run"), *visemes)

    code, output = base("--visemes", str(words))
    assert code == 2 and "words.safetensors is not a viseme estimator" in output and not (tmp_path / "run").exists()
    code, output = base("--visemes", str(own))
    assert code == 0, output
    code, output = base()
    assert code == 2 and "holds a run of another visemes" in output, output
    code, output = command(
        "base", "--config", "wan-base-smoke", "--data", str(tmp_path), "--out", str(tmp_path / "wan"),
        "--visemes", str(own),
    )  # fmt: skip
    assert code == 2 and "has no visemes in its drive: leave out --visemes" in output


def test_wans_stages_on_latents_by_the_command(tmp_path: Path) -> None:
    """The 1.3B's path at tiny size: text, velocities, a base teacher with guidance, no codec."""
    write_latents(tmp_path / "clips")
    made = {name: str(tmp_path / name / "checkpoint.safetensors") for name in STAGES}
    given = {
        "base": [], "causal": ["--start", made["base"]],
        "causal-ode": ["--start", made["causal"], "--teacher", made["base"]],
        "distill": ["--start", made["causal-ode"], "--teacher", made["base"]],
    }  # fmt: skip
    for name in STAGES:
        code, output = command(
            name.removesuffix("-ode"), "--config", f"wan-{name}-smoke", "--data", str(tmp_path / "clips"), *given[name],
            "--out", str(tmp_path / name), "--device", "cpu", "--steps", "2",
        )  # fmt: skip
        assert code == 0, output
        assert Path(made[name]).exists() and not (tmp_path / name / "sheets").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base", "--config", "causal-cpu"], "choose one of base-cpu"),
        (["base", "--config", "base-smoke"], "--data"),
        (["base", "--config", "base-smoke", "--data", "nothing.npz", "--out", "x"], "there is no corpus nothing.npz"),
        (["base", "--config", "wan-base-smoke", "--data", "nothing", "--out", "x"], "holds no"),
        (["base", "--config", "base-smoke", "--data", "x", "--out", "x", "--teacher", "t"], "leave out --teacher"),
        (["base", "--config", "wan-base-smoke", "--data", ".", "--out", "x", "--portraits", "p"], "out --portraits"),
        (["base", "--config", "base-smoke", "--accumulate", "3"], "does not divide into 3 pieces"),
        (["base", "--config", "wan-base-smoke", "--size", "480"], "a size is WIDTHxHEIGHT, like 480x480, not '480'"),
        (["base", "--config", "wan-base-smoke", "--size", "470x480"], "must be multiples of 16, not 470x480"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = command(*arguments)
    assert code == 2 and message in output and len(output.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing was made"


def test_malformed_data_is_told_before_anything_is_made(tmp_path: Path) -> None:
    data, out = make_corpus(tmp_path), tmp_path / "x"
    landmarks, corpus = tmp_path / "landmarks.json", tmp_path / "corpus.npz"
    notes = json.loads(landmarks.read_text())
    with np.load(corpus) as file:
        whole = dict(file)
    spoilt = [
        *(({"frames": np.array(frames)}, "no corpus") for frames in ([210], [0], [-5], [200.0], 200)),
        *(({name: whole[name][..., :-1, :]}, f"no corpus: {name} is") for name in ("hops", "lips", "heads")),
        ({"heads": whole["heads"][:0]}, "no corpus: heads is (0,"),
    ]
    for change, message in spoilt:
        np.savez(corpus, **whole | change)
        code, output = command("base", "--config", "base-smoke", *data, "--out", str(out))
        assert (code, message in output, len(output.splitlines()), out.exists()) == (2, True, 1, False), output
    np.savez(corpus, **whole)
    face = notes["7.jpg"]
    for change, message in (
        ({k: v for k, v in face.items() if k not in ("th", "mw")}, "7.jpg in .* lacks mw, th"),
        (face | {"cx": float("nan")}, "7.jpg in .* lacks cx"),
        (face | {"mw": 0}, "7.jpg in .* has a mouth without width"),
    ):
        landmarks.write_text(json.dumps(notes | {"7.jpg": change}))
        code, output = command("base", "--config", "base-smoke", *data, "--out", str(out))
        assert code == 2 and re.search(message, output) and len(output.splitlines()) == 1 and not out.exists()


def test_a_missing_teacher_or_start_is_named(tmp_path: Path) -> None:
    data = [*make_corpus(tmp_path), "--out", str(tmp_path / "x")]
    for stage, preset, message in (
        ("causal", "causal-ode-smoke", "causal model: name its checkpoint with --teacher"),
        ("distill", "distill-smoke", "base model: name its checkpoint with --teacher"),
    ):
        code, output = command(stage, "--config", preset, *data)
        assert code == 2 and message in output and not (tmp_path / "x").exists()


def test_portraits_that_cannot_serve_are_one_line(tmp_path: Path) -> None:
    data = [*make_corpus(tmp_path)[:2], "--out", str(tmp_path / "x"), "--portraits"]
    (tmp_path / "few.json").write_text("{}")
    for name, message in (("nothing", "no landmarks can be read from"), ("few.json", "0 portraits are too few")):
        code, output = command("base", "--config", "base-smoke", *data, str(tmp_path / name))
        assert code == 2 and message in output and len(output.splitlines()) == 1 and not (tmp_path / "x").exists()


def test_size_and_seed_by_the_command(tmp_path: Path) -> None:
    preset = PRESETS["wan-base-smoke"]
    square = with_size(preset, "64x96").model
    assert square.pixel_size == (64, 96) and square.latent_shape == (16, 12, 8) and with_size(preset, None) == preset
    code, output = command("base", "--config", "wan-1.3b-base", "--size", "480x480", "--plan")
    assert code == 0 and " 34.7\n" in output, "832x480 takes 39.7"
    data, out = make_corpus(tmp_path), tmp_path / "run"
    code, output = command(
        "base", "--config", "base-smoke", *data, "--out", str(out), "--device", "cpu", "--seed", "5", "--steps", "1"
    )
    assert code == 0, output
    assert json.loads((out / "config.json").read_text())["seed"] == 5


def test_the_plan_is_printed_and_nothing_is_done(tmp_path: Path) -> None:
    code, output = command("distill", "--config", "wan-1.3b-distill", "--plan")
    assert code == 0 and re.search(r"\n +8 +8 ", output) and "1,495,736,896" in output


def cells(preset: str) -> dict[str, str]:
    """A column of the table in docs/training.md, as the config has it."""
    c = PRESETS[preset]
    ode, critic, itself = c.method == "ode", c.stage == "distill", c.method == "fine_tune"
    otherwise = "base" if critic else "-"
    teacher = {"ode": f"{c.ode.teacher}, {c.ode.paths}", "fine_tune": "as it was"}.get(c.method, otherwise)
    withheld = f"{c.dropout.text:g} / {c.dropout.drive:g} / {c.dropout.reference:g}"
    withheld += f", both {c.dropout.both:g}" if c.dropout.both else ""
    return {
        "batch (pieces)": f"{c.batch} ({c.accumulate})",
        "steps": str(c.steps),
        "hours at most": f"{c.hours:g}",
        "rate, falling to": f"{c.rate:g}, x {c.final_rate:g}",
        "critic's rate": f"{c.critic.rate:g}" if critic else "-",
        "generator's turn": f"every {c.critic.generator_every}" if critic else "-",
        "AdamW betas, decay": f"{c.betas[0]:g} {c.betas[1]:g}, {c.weight_decay:g}",
        "clip": f"{c.clip:g}",
        "EMA": f"{c.ema:g}",
        "teacher, its steps": teacher,
        "guidance": f"{c.guidance.scale:g}" if critic or (ode and c.ode.teacher == "base") else "-",
        "pull to what is given": f"{c.given:g}" if critic and c.model.codec == "motion" else "-",
        "text / drive / reference withheld": withheld,
        "prefix shown": f"{c.exposure.prefix:g}" if c.stage == "base" else "-",
        "knot given": f"{c.exposure.knot_given:g}" if c.stage == "causal" else "-",
        "reference ahead": f"{c.clips.reference_ahead[0]}..{c.clips.reference_ahead[1] - 1}",
        "levels of the rollout": f"{c.schedule:g}" if not (ode or critic or itself) else "-",
    }


def test_the_budget_in_the_documents_is_the_configs() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    tables: dict[str, dict[str, str]] = {}
    header: list[str] = []
    for row in rows:
        if any(cell.strip("`") in PRESETS for cell in row):
            header = [cell.strip("`") for cell in row]
        elif header and len(row) == len(header) and row[0] not in ("---",):
            for preset, cell in zip(header[1:], row[1:], strict=True):
                tables.setdefault(preset, {})[row[0]] = cell
    shown = {name for name in PRESETS if not name.endswith("-smoke")}
    assert set(tables) == shown
    for preset in shown:
        assert {k: tables[preset].get(k) for k in cells(preset)} == cells(preset), preset


def test_without_portraits_it_trains_on_painted_faces(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)[:2]
    code, output = command("base", "--config", "base-smoke", *data, "--out", str(tmp_path / "run"), "--device", "cpu")
    assert code == 0, output
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_weights_from_before_the_drive_had_places_and_visemes_do_what_they_did() -> None:
    """Whatever the visemes say: they add nothing yet, and neither do places."""
    dit = TINY.dit
    before = random_model(replace(TINY, dit=replace(dit, drive_dim=dit.drive_dim - dit.visemes, visemes=0)))
    torch.nn.init.zeros_(before.drive_place)
    weights = before.state_dict()
    del weights["drive_place"]
    model = CausalWanDiT(dit)
    fill(model, weights)
    latents, at = torch.randn(2, 4, *TINY.latent_shape), torch.arange(4).expand(2, -1)
    condition, drive = torch.randn(2, 4, dit.condition_channels, 2, 2), torch.randn(2, 4, 4, dit.drive_dim)
    voice, _, given = drive.split([640, dit.visemes, 32], -1)
    sigmas = torch.rand(2, 4)
    with torch.no_grad():
        old = before(latents, sigmas, condition, torch.cat([voice, given], -1), None, BlockMask(), at)
        new = model(latents, sigmas, condition, drive, None, BlockMask(), at)
    torch.testing.assert_close(new, old)
