"""The jinja2 environment and filters that the mapfiles and the serving configuration share."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"
# What MapServer fills in at a click on a footprint. Mapfiles name it, so it lies beside them.
FOOTPRINT = TEMPLATES / "footprint.html"

Extent = tuple[float, float, float, float]


def quoted(value: object) -> str:
    r"""A MapServer string: `\` and `"` are its special characters; line breaks and control characters become
    spaces."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    printable = "".join(char if char.isprintable() else " " for char in escaped)
    return f'"{" ".join(printable.split())}"'


def numbers(extent: Extent) -> str:
    """An EXTENT, to the millimetre."""
    return " ".join(f"{value:.3f}" for value in extent)


@cache
def environment() -> Environment:
    """A misspelt name in a template is an error, never an empty string."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # none of the formats is HTML; values pass through `quoted`
    )
    made.filters |= {"quoted": quoted, "numbers": numbers}
    return made
