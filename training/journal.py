"""What a run leaves to look at: JSON lines, curves for TensorBoard where it is installed, sample sheets."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Figures = dict[str, Any]


class Journal:
    """Writes into a run's folder. A resumed run drops the lines that were written after its checkpoint."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        self.lines = folder / "log.jsonl"
        if self.lines.exists():
            kept = [line for line in self.lines.read_text().splitlines() if json.loads(line)["step"] <= step]
            partial = self.lines.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, self.lines)
        self.board = tensorboard(folder / "tensorboard", step)

    def write(self, figures: Figures) -> None:
        """One line; a nested table (errors by name) goes to the file alone, not to the screen."""
        with self.lines.open("a") as file:
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
        partial = folder / ".partial"
        partial.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        os.replace(partial, folder / f"{step:07d}.png")
        if self.board is not None:
            self.board.add_image("sheet", picture[..., ::-1], step, dataformats="HWC")

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def tensorboard(folder: Path, step: int) -> Any | None:
    """Its writer, if the extra `train` is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
