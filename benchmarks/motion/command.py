"""Command line shared by the motion benchmarks."""

import argparse


def make_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Parser of `benchmarks.motion.name` with the option --json. doc: the module's docstring, its description."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, prog=f"benchmarks.motion.{name}"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    return parser
