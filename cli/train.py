"""`knotcast train`: one command a stage, and a plan of the memory it takes. Several processes by torchrun:
`torchrun --nproc-per-node 8 -m cli.main train base ...`.
"""

from pathlib import Path
from typing import Annotated

import typer

train = typer.Typer(
    help="Train a model: base, then causal, then distill (training/README.md).", no_args_is_help=True
)

Config = Annotated[str, typer.Option(help="preset; an unknown name lists those of the stage")]
Data = Annotated[Path | None, typer.Option(help="corpus .npz of training.make_data, or a folder of encoded clips")]
Portraits = Annotated[Path | None, typer.Option(help="landmarks.json of the training portraits (embedded model)")]
Start = Annotated[Path | None, typer.Option(help="weights to begin with: a checkpoint, or Wan2.1's safetensors")]
Teacher = Annotated[Path | None, typer.Option(help="checkpoint of the frozen model to learn from")]
Out = Annotated[Path | None, typer.Option(help="folder of checkpoint, log and sheets; a run there is gone on with")]
Steps = Annotated[int | None, typer.Option(help="another number of steps than the preset's", min=1)]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto")]
Threads = Annotated[int, typer.Option(help="CPU threads of a process, 0 = torch's own choice", min=0)]
Plan = Annotated[bool, typer.Option("--plan", help="print the memory for 1, 4 and 8 GPUs, and do nothing")]


@train.command()
def base(
    config: Config, data: Data = None, portraits: Portraits = None, start: Start = None, out: Out = None,
    steps: Steps = None, device: Device = "auto", threads: Threads = 0, plan: Plan = False,
) -> None:  # fmt: skip
    """The bidirectional model: teacher of the others. --start: Wan2.1's weights."""
    run("base", config, data, portraits, start, None, out, steps, device, threads, plan)


@train.command()
def causal(
    config: Config, data: Data = None, portraits: Portraits = None, start: Start = None, teacher: Teacher = None,
    out: Out = None, steps: Steps = None, device: Device = "auto", threads: Threads = 0, plan: Plan = False,
) -> None:  # fmt: skip
    """The causal model under the true past, or (presets with `ode`) along a teacher's paths."""
    run("causal", config, data, portraits, start, teacher, out, steps, device, threads, plan)


@train.command()
def distill(
    config: Config, data: Data = None, portraits: Portraits = None, start: Start = None, teacher: Teacher = None,
    out: Out = None, steps: Steps = None, device: Device = "auto", threads: Threads = 0, plan: Plan = False,
) -> None:  # fmt: skip
    """The causal model by its own rollouts. --start: the causal model; --teacher: the base."""
    run("distill", config, data, portraits, start, teacher, out, steps, device, threads, plan)


def run(
    stage: str, preset: str, data: Path | None, portraits: Path | None, start: Path | None, teacher: Path | None,
    out: Path | None, steps: int | None, device: str, threads: int, plan: bool,
) -> None:  # fmt: skip
    """One stage; what the world did wrong ends in one line."""
    from dataclasses import replace

    import torch

    from cli.main import fail, one_line_errors
    from training.configs import find_preset
    from training.plan import describe
    from training.run import train as run_stage

    with one_line_errors():
        config = find_preset(preset, stage)
        config = config if steps is None else replace(config, steps=steps)
        if plan:
            typer.echo(describe(config))
            return
        if data is None or out is None:
            fail("name the data with --data and the folder to write with --out")
            return
        if threads:
            torch.set_num_threads(threads)
        typer.echo(run_stage(config, data, portraits, start, teacher, out, device))
