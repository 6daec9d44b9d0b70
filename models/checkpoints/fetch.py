"""Download of a published checkpoint from the Hugging Face hub into a model's folder: licence, disk space, digest,
conversion.

An interrupted download resumes where it stopped; the hub's own library would restart it. Files of a model are written
atomically, after they were checked.
"""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from ground.errors import EngineError, RequestError
from ground.files import held, replacing
from models.checkpoints.convert import Conversion, convert, take
from models.checkpoints.folders import DIT, TINY, VAE, model_folder
from models.checkpoints.hub import Hub, Remote
from models.checkpoints.manifest import KNOWN, HubFile, Known

SPARE_BYTES = 256 * 2**20
WORK = ".fetch"


class DownloadProgress(Protocol):
    """Callback during a download: path of the file on the hub, bytes received so far, and its size in bytes."""

    def __call__(self, file: str, done: int, size: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Fetch:
    """Download of one file. file: its entry in the manifest. remote: its metadata on the hub. path: local target."""

    file: HubFile
    remote: Remote
    path: Path


def find_known(name: str) -> Known:
    if name not in KNOWN:
        raise RequestError(
            "unknown_checkpoint", f"unknown published checkpoint {name!r}: choose one of {', '.join(KNOWN)}"
        )
    return KNOWN[name]


def fetch(
    name: str, models_dir: str, progress: DownloadProgress, *, accept_licence: bool = False, endpoint: str | None = None
) -> Path | None:
    """Download and convert the missing files of a published model. Returns its folder, or None if no file was missing.

    Raises RequestError ``unknown_checkpoint``, ``licence_not_accepted``, ``in_use``, EngineError ``hub_unreachable``,
    ``no_space``, ``checkpoint_broken``, ``checkpoint_mismatch``.
    """
    known = find_known(name)
    folder = model_folder(name, models_dir)
    lacking = missing(known, folder)
    if not lacking:
        return None
    if not known.permissive and not accept_licence:
        pages = ", ".join(f"https://huggingface.co/{repository}" for repository in known.repositories)
        raise RequestError(
            "licence_not_accepted",
            f"read the licence of {name} ({known.licence}) at {pages}, then add --accept-licence",
        )
    hub = Hub(endpoint)
    jobs = [Fetch(file, hub.look_up(file), _place(folder, file)) for file in lacking]
    _room(name, folder, jobs)
    with held(folder, "fetching into"):
        for job in jobs:
            hub.download(job.remote, job.path, partial(progress, job.file.path, size=job.remote.size))
        _turn_into_model(known, jobs, folder, models_dir)
        shutil.rmtree(folder / WORK)  # before the lock on the folder is released and another run may start
    return folder


def missing(known: Known, folder: Path) -> list[HubFile]:
    """List the files to download: those whose target is missing, with their companions (entries without a target)."""
    lacking, there = [], False
    for file in known.files:
        if file.target:
            there = (folder / file.target).is_file()
        if not there:
            lacking.append(file)
    return lacking


def _place(folder: Path, file: HubFile) -> Path:
    return folder / WORK / file.repository.replace("/", "--") / file.path


def _room(name: str, folder: Path, jobs: list[Fetch]) -> None:
    """Require disk space for the rest of the download plus the full size again for conversion. Raises EngineError
    ``no_space``."""
    at = next(parent for parent in (folder, *folder.parents) if parent.exists())
    need = sum(2 * job.remote.size - job.remote.there(job.path) for job in jobs) + SPARE_BYTES
    free = shutil.disk_usage(at).free
    if free < need:
        raise EngineError(
            "no_space",
            f"{name} needs {need / 1e9:.1f} GB of disk space for download and conversion, but {at} has "
            f"{free / 1e9:.1f} GB free: free some space, or choose another folder with --models-dir",
        )


def _turn_into_model(known: Known, jobs: list[Fetch], folder: Path, models_dir: str) -> None:
    adapter = next((job.path for job in jobs if known.adapter and job.file.path == known.adapter), None)
    for job in jobs:
        target = job.file.target
        if target in (DIT, VAE, TINY):
            lora = adapter if target == DIT else None
            convert(Conversion(job.path, known.model, lora, known.alpha, consumed=True), models_dir)
        elif target:
            take(job.path, folder / target)
    told = {
        f"{job.file.repository}/{job.file.path}": {"commit": job.remote.commit, "sha256": job.remote.sha256}
        for job in jobs
    }
    with replacing(folder / "source.json") as written:
        written.write_text(json.dumps({"licence": known.licence, "files": told}, indent=1) + "\n")
