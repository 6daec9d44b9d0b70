"""Command that makes the training corpus: `python -m training.data.synthetic.make_data --out FILE --voices DIR`."""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from ground.errors import one_line_errors
from training.arguments import at_least
from training.data.synthetic.corpus import CorpusConfig, CorpusMaker, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--voices", type=Path, help="folder of human recordings with transcripts.json")
    parser.add_argument(
        "--sessions", type=at_least(0), default=CorpusConfig().sessions, help="half-minute sessions of espeak-ng"
    )
    parser.add_argument(
        "--flite-sessions", type=at_least(0), default=CorpusConfig().flite_sessions, help="of flite; 0: do without it"
    )
    parser.add_argument(
        "--festival-sessions", type=at_least(0), default=CorpusConfig().festival_sessions, help="of Festival, likewise"
    )
    parser.add_argument("--seed", type=at_least(0), default=CorpusConfig().seed)
    args = parser.parse_args()
    config = replace(
        CorpusConfig(), sessions=args.sessions, flite_sessions=args.flite_sessions,
        festival_sessions=args.festival_sessions, seed=args.seed,
    )  # fmt: skip
    began = time.monotonic()
    with one_line_errors("training.data.synthetic.make_data"):
        made = write(args.out, CorpusMaker(config, args.voices).sessions())
    print(json.dumps({**made, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
