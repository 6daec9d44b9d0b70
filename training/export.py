"""Command that writes a checkpoint's averaged weights for the engine: `python -m training.export CHECKPOINT DIT`."""

import argparse
from pathlib import Path

from ground.errors import RequestError, one_line_errors
from training import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    with one_line_errors("training.export"):
        print(f"{args.out}: {export(args.checkpoint, args.out):.1f} MiB")


def export(path: Path, out: Path) -> float:
    """Returns the size in MiB. Raises RequestError."""
    weights, metadata = checkpoint.averaged_weights(path)
    if not weights:
        raise RequestError("bad_checkpoint", f"{path} holds no averaged weights: name a checkpoint of `knotcast train`")
    told = ("model", "stage", "step", *(["method"] if metadata.get("stage") == "causal" else []))
    return checkpoint.export(weights, out, {name: metadata[name] for name in told if name in metadata})


if __name__ == "__main__":
    main()
