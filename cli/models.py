"""`knotcast models`: list, describe, fetch, convert and verify models. models.checkpoints does the work."""

import os
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from engine.rollout.strategies import rollouts_of
from ground.errors import RequestError
from models.checkpoints.convert import Conversion, convert
from models.checkpoints.fetch import fetch, find_known
from models.checkpoints.folders import WEIGHTS, model_folder
from models.checkpoints.manifest import KNOWN, Known
from models.checkpoints.parts import parts_of
from models.checkpoints.presence import is_there, needed
from models.checkpoints.verify import Report, verify_file, verify_model
from models.config import CONFIGS


def files_of(name: str) -> list[str]:
    """Files that a model's folder must hold, and those fetched with them."""
    modelled = needed(CONFIGS[name]) if name in CONFIGS else ()
    fetched = [file.target for file in KNOWN[name].files if file.target] if name in KNOWN else []
    return list(dict.fromkeys([*modelled, *fetched]))


def state_of(name: str, models_dir: str) -> str:
    """Which files of a model are present. It does not check whether they load."""
    config = CONFIGS.get(name)
    folder = model_folder((config.weights if config else "") or name, models_dir)
    lacking = [file for file in files_of(name) if not is_there(folder, file)]
    if not lacking:
        return "in the package" if folder.parent == WEIGHTS else "there"
    if len(lacking) < len(files_of(name)):
        return f"lacks {', '.join(lacking)}"
    return "to be fetched" if name in KNOWN else "no published weights"


def listed(models_dir: str) -> str:
    """A line a model: those of the table first, then those that are only known to be published. Raises AvatarError."""
    names = [*CONFIGS, *(name for name in KNOWN if name not in CONFIGS)]
    width = max(map(len, names))
    lines = [f"{name:{width}}  {state_of(name, models_dir):22}  {_title(name)}".rstrip() for name in names]
    return "\n".join([*lines, f"folder: {models_dir}"])


def _title(name: str) -> str:
    if name in KNOWN:
        return KNOWN[name].title
    config = CONFIGS[name]
    return f"{config.pixel_size[0]}x{config.pixel_size[1]}, {config.fps} frames a second"


def told(name: str, models_dir: str) -> str:
    """Raises RequestError ``unknown_model``."""
    if name not in CONFIGS and name not in KNOWN:
        raise RequestError("unknown_model", f"unknown model {name!r}: `knotcast models list` names them")
    lines = [f"{name}: {_title(name)}"]
    if name in CONFIGS:
        config = CONFIGS[name]
        size = sum(_count(shape) for shape in (parts_of(config)[0].wanted or {}).values())
        lines.append(f"  transformer: {size / 1e6:,.1f} million values")
        lines.append(f"  rollouts, its own first: {', '.join(rollouts_of(config))}")
        lines += [f"  not checked against the published files: {what}" for what in config.unverified]
    else:
        lines.append("  this version has no transformer for it yet: its files can be fetched, not run")
    if name in KNOWN:
        lines += _published(KNOWN[name])
    lines.append(f"  state: {state_of(name, models_dir)}")
    return "\n".join(lines)


def _published(known: Known) -> list[str]:
    memory = f"{known.memory_gb:g} GB by its authors" if known.memory_gb else "its authors do not say"
    lines = [
        f"  driven by: {known.driven_by}",
        f"  licence: {known.licence}" + ("" if known.permissive else " (fetching needs --accept-licence)"),
        f"  memory of the device: {memory}",
    ]
    for file in known.files:
        size = f"{file.size / 1e9:.2f} GB" if file.size and file.size > 10**6 else f"{file.size or '?'} bytes"
        checked = "sha256 known" if file.sha256 else "checked by what the hub tells"
        lines.append(f"  {file.target or '(with it)'}: {file.repository}/{file.path}, {size}, {checked}")
    return lines + ([f"  note: {known.note}"] if known.note else [])


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def fetched(name: str, models_dir: str, accept_licence: bool) -> str:
    """Raises AvatarError."""
    known = find_known(name)
    print(f"{name}: licence {known.licence}, from {', '.join(known.repositories)}", flush=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=quiet) as bars:
        tasks: dict[str, int] = {}

        def progress(file: str, done: int, size: int) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file.rpartition("/")[2], total=size)
            bars.update(tasks[file], completed=done)  # type: ignore[arg-type]

        folder = fetch(name, models_dir, progress, accept_licence=accept_licence)
    return f"{name}: all of it was there" if folder is None else f"{name}: fetched into {folder}"


def converted(source: Path, to: str, lora: Path | None, alpha: float | None, dtype: str | None, models_dir: str) -> str:
    """Raises AvatarError."""
    kind: torch.dtype | None = getattr(torch, dtype) if dtype else None
    return str(convert(Conversion(source, to, lora, alpha, kind), models_dir))


def verified(what: str, models_dir: str) -> Report:
    """Raises AvatarError."""
    if what in CONFIGS:
        return verify_model(what, models_dir)
    if not os.path.exists(what):  # unlike Path's, False for a name that is too long
        raise RequestError("unknown_model", f"{what!r} is neither a model (`knotcast models list`) nor a file")
    return verify_file(Path(what))
