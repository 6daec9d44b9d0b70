"""Generator of docs/settings.md, from the fields of ``Settings``.

python -m server.settings_page > docs/settings.md
"""

import json
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from server.settings import Settings

SECTIONS = {
    "host": "Listening",
    "advertised_address": "WebRTC",
    "model": "Engine",
    "data_dir": "Portraits",
    "max_sessions": "Calls",
    "random_weights": "Tests and measurements",
}
INTRODUCTION = """# Settings

Environment variables with the prefix `KNOTCAST_`, read once at start. `knotcast serve --help` has options for the
common ones. A list is written as names with commas between them, or as JSON. A value that does not fit stops the start
with one line that names the variable.

This page is generated from [server/settings.py](../server/settings.py):
`python -m server.settings_page > docs/settings.md`.
"""


def settings_page() -> str:
    """The whole page as Markdown."""
    lines = [INTRODUCTION.rstrip()]
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            lines += ["", f"## {SECTIONS[name]}", "", "| variable | default | range | meaning |", "|---|---|---|---|"]
        lines.append(f"| `KNOTCAST_{name.upper()}` | {_default(field)} | {_range(field)} | {field.description} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == "":
        return "unset"
    return f"`{json.dumps(to_jsonable_python(value)).strip(chr(34))}`"


def _range(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation) if choice)
    bounds = []
    for bound in field.metadata:
        match bound:
            case Ge(ge=least):
                bounds.append(f"from {least}")
            case Gt(gt=least):
                bounds.append(f"above {least}")
            case Le(le=most):
                bounds.append(f"to {most}")
    return " ".join(bounds)


if __name__ == "__main__":
    print(settings_page(), end="")
