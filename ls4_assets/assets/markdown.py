"""Tables as the Dagster UI shows them in metadata."""

import html
from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown (GitHub's), with every character of a cell as it is: <roll> is no tag and | ends no cell."""
    return "\n".join([_line(headings), _line(["---"] * len(headings)), *(_line([_plain(cell) for cell in row]) for row in rows)])


def _plain(cell: str) -> str:
    return " ".join(html.escape(cell, quote=False).replace("|", "\\|").split())


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
