"""Jinja2 rendering of mapfiles and of the serving configuration.

What goes into a mapfile is decided in `mapfile` and `statewide_map`; what goes into nginx.conf and mapserver.conf, in `config`.
"""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"
# The HTML that MapServer fills in for a GetFeatureInfo request. Mapfiles refer to it by name, so it is published beside them.
FOOTPRINT_TEMPLATE = TEMPLATES / "footprint.html"

# minx, miny, maxx, maxy in EPSG:3857 meters.
Extent = tuple[float, float, float, float]


def render_template(name: str, **values: object) -> str:
    """The text of a template. An undefined name raises jinja2.UndefinedError."""
    return _environment().get_template(name).render(values)


def quote(value: object) -> str:
    r"""A MapServer string: `\` and `"` are escaped, runs of white space and control characters become one space."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    printable = "".join(char if char.isprintable() else " " for char in escaped)
    return f'"{" ".join(printable.split())}"'


def format_extent(extent: Extent) -> str:
    """The four numbers of an EXTENT, to the millimeter."""
    return " ".join(f"{value:.3f}" for value in extent)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # no format is HTML; values pass through `quote`
    )
    environment.filters |= {"quote": quote, "extent": format_extent}
    return environment
