"""The command `knotcast`: one Typer app. Each command imports what it needs when it runs.

An AvatarError ends a command with one line on standard error and exit code 2, never with a traceback.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ground.errors import one_line_errors

app = typer.Typer(
    help="A real-time avatar server: a browser calls, one portrait answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Figures of this machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")

models = typer.Typer(help="Checkpoints: what there is, getting it, and whether it loads.", no_args_is_help=True)
app.add_typer(models, name="models")

PresetName = Literal["quality", "balanced", "realtime"]
DTYPE = "bfloat16, float32, auto, or float8: bf16 and a video model's linear layers in 8-bit floats"
PRESET = "size, steps and decoder of a video model; default: its own"
MODELS_DIR = "folder of the models; default: KNOTCAST_MODELS_DIR, then knotcast/models in your cache folder"
ROLLOUT = "by name, default: the model's own; `knotcast models info MODEL` lists those that fit it"


def fail(message: str) -> None:
    typer.echo(f"knotcast: {message}", err=True)
    raise typer.Exit(2)


def models_folder(given: Path | None) -> str:
    """The option, the variable, or the user's cache folder."""
    from server.settings import models_folder as folder
    from server.settings import read_settings

    return folder(given or read_settings().models_dir)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on; beyond loopback a key is demanded")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port, 0 = any free one")] = None,
    model: Annotated[str | None, typer.Option(help="model by name")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto")] = None,
    dtype: Annotated[str | None, typer.Option(help=DTYPE)] = None,
    workers: Annotated[int | None, typer.Option(help="engine worker processes")] = None,
    spares: Annotated[int | None, typer.Option(help="more of them that stand by, warm, for when one is lost")] = None,
    slots: Annotated[int | None, typer.Option(help="calls one worker can hold")] = None,
    tls: Annotated[Literal["off", "self-signed"] | None, typer.Option(help="HTTPS for microphones elsewhere")] = None,
    public_url: Annotated[str | None, typer.Option(help="address behind a reverse proxy; a key is demanded")] = None,
    advertised_address: Annotated[str | None, typer.Option(help="public address behind 1:1 NAT")] = None,
    prompt: Annotated[str | None, typer.Option(help="text for models that attend to text")] = None,
    text_embedding: Annotated[str | None, typer.Option(help="or its embedding, .safetensors")] = None,
    preset: Annotated[PresetName | None, typer.Option(help=PRESET)] = None,
    random_weights: Annotated[bool | None, typer.Option(help="noise instead of a checkpoint, for tests")] = None,
    models_dir: Annotated[Path | None, typer.Option(help=MODELS_DIR)] = None,
) -> None:
    """Serve the page and the API. Options left out come from KNOTCAST_* variables, then from the defaults."""
    from models.checkpoints.presence import check_model
    from server.http.run import serve as run_server
    from server.settings import Settings, engine_config, read_settings

    given = {name: value for name, value in locals().items() if value is not None and name in Settings.model_fields}
    with one_line_errors("knotcast"):
        settings = read_settings(**given)
        check_model(engine_config(settings))
        run_server(settings)


@app.command()
def animate(
    portrait: Annotated[Path, typer.Option(help="photograph of one face: JPEG, PNG, WebP, AVIF or HEIC")],
    audio: Annotated[Path, typer.Option(help="voice: WAV, MP3, FLAC, Ogg (Opus or Vorbis), AIFF or AU")],
    out: Annotated[Path, typer.Option(help="the video to write, .mp4")],
    pose: Annotated[Path | None, typer.Option(help="head poses and blendshapes, one JSON record a line")] = None,
    model: Annotated[str, typer.Option(help="model by name")] = "embedded",
    rollout: Annotated[str, typer.Option(help=ROLLOUT)] = "",
    running_ahead: Annotated[
        Literal["constant", "countdown"] | None, typer.Option(help="where the reference stands")
    ] = None,
    seed: Annotated[int, typer.Option(help="same seed and input, same video", min=0, max=2**63 - 1)] = 0,
    seconds: Annotated[float | None, typer.Option(help="length; default: the voice's", min=0.04, max=3600)] = None,
    report: Annotated[Path | None, typer.Option(help="write figures of the run as JSON")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPE)] = "auto",
    prompt: Annotated[str, typer.Option(help="text for models that attend to text")] = "",
    text_embedding: Annotated[str, typer.Option(help="or its embedding, .safetensors")] = "",
    preset: Annotated[PresetName | None, typer.Option(help=PRESET)] = None,
    random_weights: Annotated[bool, typer.Option(help="noise instead of a checkpoint, for tests")] = False,
    models_dir: Annotated[Path | None, typer.Option(help=MODELS_DIR)] = None,
) -> None:
    """Make a video of a portrait speaking a recording, by the same worker as a live call."""
    from cli.animate import AnimateJob
    from cli.animate import animate as run_animate
    from engine.wire.messages import RolloutRequest
    from ground.config import EngineConfig

    with one_line_errors("knotcast"):
        folder = models_folder(models_dir)
        run_animate(
            AnimateJob(
                portrait=portrait,
                audio=audio,
                out=out,
                pose=pose,
                engine=EngineConfig(
                    model=model,
                    device=device,
                    dtype=dtype,
                    slots=1,
                    random_weights=random_weights,
                    prompt=prompt,
                    text=text_embedding,
                    models_dir=folder,
                    preset=preset or "",
                ),  # fmt: skip
                rollout=RolloutRequest(rollout, running_ahead or ""),
                seed=seed,
                seconds=seconds,
                report=report,
            )
        )


@app.command()
def train(
    stage: Annotated[Literal["base", "causal", "distill"], typer.Argument(help="in this order")],
    config: Annotated[str, typer.Option(help="preset; an unknown name lists those of the stage")],
    data: Annotated[
        Path | None, typer.Option(help="corpus .npz of training.data.synthetic.make_data, or a folder of clips")
    ] = None,
    portraits: Annotated[
        Path | None, typer.Option(help="folder of portraits, or its landmarks.json; none: painted faces")
    ] = None,
    visemes: Annotated[
        Path | None, typer.Option(help="estimator of training.viseme_estimator; none: the shipped one")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="weights to begin with: a checkpoint, or Wan2.1's")] = None,
    teacher: Annotated[Path | None, typer.Option(help="checkpoint of the frozen model to learn from")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of checkpoint, log and sheets; goes on from there")] = None,
    steps: Annotated[int | None, typer.Option(help="another number than the preset's", min=1)] = None,
    accumulate: Annotated[int | None, typer.Option(help="pieces a batch is worked through in", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="of clips and noise; default: the preset's", min=0)] = None,
    workers: Annotated[int | None, typer.Option(help="processes that prepare clips", min=0)] = None,
    size: Annotated[str | None, typer.Option(help="another picture size, like 480x480")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of a process, 0 = torch's choice", min=0)] = 0,
    plan: Annotated[bool, typer.Option("--plan", help="print the memory on 1, 4 and 8 GPUs, and stop")] = False,
) -> None:
    """Train one stage (docs/training.md). Several processes: `torchrun --nproc-per-node N -m -- cli.main train`."""
    from dataclasses import replace

    import torch

    from training.configs import find_preset, with_size
    from training.plan import describe
    from training.run import train as run_stage

    with one_line_errors("knotcast"):
        options: dict[str, Any] = {"steps": steps, "accumulate": accumulate, "seed": seed, "workers": workers}
        given = {name: value for name, value in options.items() if value is not None}
        chosen = with_size(replace(find_preset(config, stage), **given), size)
        if plan:
            typer.echo(describe(chosen))
            return
        if data is None or out is None:
            fail("name the data with --data and the folder to write with --out")
            return
        if threads:
            torch.set_num_threads(threads)
        written = run_stage(chosen, data, portraits, visemes, start, teacher, out, device)
        if written is not None:
            typer.echo(written)


@bench.command(
    "engine",
    add_help_option=False,  # --help is passed on with everything else
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench_engine(context: typer.Context) -> None:
    """Chunks per second of a model on this machine; `knotcast bench engine --help` lists its options."""
    import subprocess

    # By name and in its own process: benchmarks use everything and are imported by nothing.
    raise typer.Exit(subprocess.call([sys.executable, "-m", "benchmarks.speed.engine", *context.args]))


@bench.command("memory")
def bench_memory(
    model: Annotated[str, typer.Option(help="a model of Wan2.1's latents")] = "wan2.1-1.3b",
    slots: Annotated[int, typer.Option(help="calls at once", min=1, max=64)] = 1,
    dtype: Annotated[Literal["bfloat16", "float8"], typer.Option(help="of the blocks' linear layers")] = "bfloat16",
) -> None:
    """What every preset needs of a GPU, and the preset for cards of 8, 12, 16 and 24 GiB: arithmetic, nothing is
    loaded."""
    from models.config import find_config
    from models.memory import describe

    with one_line_errors("knotcast"):
        typer.echo(describe(find_config(model), slots, dtype == "float8"))


@models.command("list")
def models_list(models_dir: Annotated[Path | None, typer.Option(help=MODELS_DIR)] = None) -> None:
    """Every model by name, and whether its files are there."""
    from cli.models import listed

    with one_line_errors("knotcast"):
        typer.echo(listed(models_folder(models_dir)))


@models.command("info")
def models_info(
    name: Annotated[str, typer.Argument(help="model by name")],
    models_dir: Annotated[Path | None, typer.Option(help=MODELS_DIR)] = None,
) -> None:
    """What a model is, what drives it, its licence and its files."""
    from cli.models import told

    with one_line_errors("knotcast"):
        typer.echo(told(name, models_folder(models_dir)))


@models.command("fetch")
def models_fetch(
    name: Annotated[str, typer.Argument(help="model by name")],
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="you have read it, and keep to it")] = False,
    models_dir: Annotated[Path | None, typer.Option(help=MODELS_DIR)] = None,
) -> None:
    """Download a published checkpoint and turn it into a model's folder. Interrupted, it goes on when called again."""
    from cli.models import fetched

    with one_line_errors("knotcast"):
        typer.echo(fetched(name, models_folder(models_dir), accept_licence))


@models.command("convert")
def models_convert(
    source: Annotated[Path, typer.Argument(help="safetensors, shards by their folder or index, or a trainer's .pt")],
    to: Annotated[str, typer.Option(help="model by name, whose file it becomes")],
    lora: Annotated[Path | None, typer.Option(help="adapter in PEFT's format, to merge")] = None,
    lora_alpha: Annotated[float | None, typer.Option(help="its alpha, if nothing beside it says so")] = None,
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None, typer.Option(help="of what is written; default: as it is")
    ] = None,
    models_dir: Annotated[Path | None, typer.Option(help=MODELS_DIR)] = None,
) -> None:
    """Turn a checkpoint of any published format into a file that a model loads."""
    from cli.models import converted

    with one_line_errors("knotcast"):
        typer.echo(converted(source, to, lora, lora_alpha, dtype, models_folder(models_dir)))


@models.command("verify")
def models_verify(
    what: Annotated[str, typer.Argument(help="model by name, or a checkpoint's path")],
    models_dir: Annotated[Path | None, typer.Option(help=MODELS_DIR)] = None,
) -> None:
    """Say what would load, and why the rest would not: names, shapes and types. Exit code 2 if something would not."""
    from cli.models import verified

    with one_line_errors("knotcast"):
        report = verified(what, models_folder(models_dir))
        for line in report.lines:
            typer.echo(line)
        raise typer.Exit(0 if report.good else 2)


if __name__ == "__main__":
    app()
