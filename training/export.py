"""Command that writes a checkpoint's averaged weights for the engine: `python -m training.export CHECKPOINT DIT`."""

import argparse
from pathlib import Path

from training import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    note = {"model": "embedded", "from": args.checkpoint.parent.name}
    size = checkpoint.export(checkpoint.averaged_weights(args.checkpoint), args.out, note)
    print(f"{args.out}: {size:.1f} MiB")


if __name__ == "__main__":
    main()
