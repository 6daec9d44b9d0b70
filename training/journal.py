"""Log of a run: JSON lines, TensorBoard curves where it is installed, sample sheets."""

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ground.files import replacing, writing

Figures = dict[str, Any]


class Journal:
    """Writes into a run's folder. A resumed run drops the lines that were written after its checkpoint, and those that
    a kill tore."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        self.lines = folder / "log.jsonl"
        if self.lines.exists():
            kept = [line for line in self.lines.read_text().splitlines() if _step(line) <= step]
            with replacing(self.lines) as partial:
                partial.write_text("".join(line + "\n" for line in kept))
        self.board = tensorboard(folder / "tensorboard", step)

    def write(self, figures: Figures) -> None:
        """One line; a nested table (errors by name) goes to the file alone, not to the screen."""
        with writing(self.lines), self.lines.open("a") as file:
            file.write(json.dumps(figures) + "\n")
        plain = {name: value for name, value in figures.items() if not isinstance(value, dict)}
        print(json.dumps(plain), flush=True)
        if self.board is not None:
            for name, value in plain.items():
                self.board.add_scalar(name, value, figures["step"])

    def show(self, picture: NDArray[np.uint8], step: int) -> None:
        """A sample sheet, BGR."""
        folder = self.folder / "sheets"
        folder.mkdir(exist_ok=True)
        with replacing(folder / f"{step:07d}.png") as partial:
            partial.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        if self.board is not None:
            self.board.add_image("sheet", picture[..., ::-1], step, dataformats="HWC")

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def _step(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


def tensorboard(folder: Path, step: int) -> Any | None:
    """TensorBoard's writer, if the extra `train` is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
