"""Markdown tables and lists for metadata in the Dagster UI."""

import html
from collections.abc import Iterable, Sequence

from ls4_assets.domain.printable import printable


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Table in GitHub Markdown. Cells are escaped, so that `<roll>` is not an HTML tag and `|` does not end a cell."""
    return "\n".join([_row(headings), _row(["---"] * len(headings)), *(_row([_escape(cell) for cell in row]) for row in rows)])


def entries(items: Iterable[tuple[str, str]]) -> str:
    """List of names, each with a text below it. The Dagster UI cuts a table that is wider than the page, but wraps a list."""
    return "\n".join(f"- **{_escape(name)}**  \n  {_escape(text)}" for name, text in items)


def _escape(cell: str) -> str:
    return html.escape(printable(" ".join(cell.split())), quote=False).replace("|", "\\|")


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
