"""Report of `knotcast models verify`: whether the tensors of a model or file load, and every fault otherwise."""

from dataclasses import dataclass
from pathlib import Path

from ground.errors import AvatarError
from models.checkpoints.fit import Fit, compare
from models.checkpoints.folders import model_folder
from models.checkpoints.lora import is_adapter
from models.checkpoints.manifest import KNOWN, advice
from models.checkpoints.parts import accepted_by, ignored_in, kind_of, parts_of
from models.checkpoints.reading import open_checkpoint
from models.config import CONFIGS


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a verification. lines: text for the terminal. good: True if everything loads."""

    lines: tuple[str, ...]
    good: bool


def verify_model(name: str, models_dir: str = "") -> Report:
    """Verify every file in the folder of a model. name: a key of `models.config.CONFIGS`."""
    config = CONFIGS[name]
    folder = model_folder(config.weights or name, models_dir)
    lines, good = [f"{name}: {folder}"], True
    for part in parts_of(config):
        try:
            checkpoint = open_checkpoint(folder / part.file)
            checkpoint = checkpoint.renamed(kind_of(checkpoint.tensors)[1])
        except AvatarError as error:
            missing = error.code == "checkpoint_missing"
            lines.append(f"  {part.file}: {'missing, ' + advice(name, part.file) if missing else error.message}")
            good = False
            continue
        if part.wanted is not None:
            fit = compare(checkpoint, part.wanted, ignored_in(part, checkpoint.tensors))
            lines += _told(part.file, fit)
            good = good and fit.good
    if name in KNOWN:
        modelled = {part.file for part in parts_of(config)}
        for target in (file.target for file in KNOWN[name].files if file.target and file.target not in modelled):
            there = (folder / target).is_file()
            lines.append(f"  {target}: {'there' if there else 'missing, ' + advice(name, target)}")
            good = good and there
    return Report(tuple(lines), good)


def verify_file(path: Path) -> Report:
    """Verify a checkpoint file or folder: the models that it loads into, or the faults for the nearest model."""
    checkpoint = open_checkpoint(path)
    told = f"{checkpoint.label}: {len(checkpoint.tensors)} tensors, {checkpoint.bytes / 2**20:.1f} MiB"
    if is_adapter(checkpoint.tensors):
        return Report((told, "  a LoRA: merged by `knotcast models convert BASE --to MODEL --lora FILE`"), True)
    file, names = kind_of(checkpoint.tensors)
    checkpoint = checkpoint.renamed(names)
    fits: list[tuple[str, Fit]] = []
    for config in CONFIGS.values():
        for part in accepted_by(config):
            if part.file == file and part.wanted is not None:
                fits.append((config.name, compare(checkpoint, part.wanted, ignored_in(part, checkpoint.tensors))))
    loads = [name for name, fit in fits if fit.good]
    if loads:
        return Report((f"{told}, loads as {file} of {', '.join(loads)}", *_ignored(fits, loads[0])), True)
    if not fits:
        return Report((f"{told}, a {file}: the file is intact, its contents are not checked",), True)
    nearest, fit = max(fits, key=lambda found: found[1].fitting)
    return Report((f"{told}, loads into no model; nearest is {nearest}", *_told(file, fit)), False)


def _ignored(fits: list[tuple[str, Fit]], name: str) -> tuple[str, ...]:
    ignored = next(fit.ignored for model, fit in fits if model == name)
    return (f"  {len(ignored)} tensors are known and not used, the first is {ignored[0]}",) if ignored else ()


def _told(file: str, fit: Fit) -> list[str]:
    """Lines on one file: a summary, then all names of each kind of fault in a line."""
    state = "loads" if fit.good else "would not load"
    lines = [
        f"  {file}: {state}, {fit.fitting} tensors fit" + (f", {len(fit.ignored)} not used" if fit.ignored else "")
    ]
    return lines + [f"    {len(names)} {kind}: {', '.join(names)}" for kind, names in fit.faults]
