"""Colors and progress bars. Both are for terminals only: pipes, files and NO_COLOR get plain text."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

# The first of these words of a line decides its color.
_COLORS = {
    "CRITICAL": "red",
    "ERROR": "red",
    "rejected:": "red",
    "rejected,": "red",
    "WARNING": "yellow",
    "waiting:": "yellow",
    "OK:": "green",
}


def colorize(line: str) -> str:
    """The line in the color of its first word. `click.echo` removes the color where it does not belong."""
    word = line.split(maxsplit=1)[0] if line.strip() else ""
    color = _COLORS.get(word) or _COLORS.get(word.rstrip(":"))
    return click.style(line, fg=color) if color else line


def echo(line: str) -> None:
    """Print lines, each in its color."""
    click.echo("\n".join(map(colorize, line.split("\n"))))


class Progress:
    """A bar on stderr, or nothing; lines printed through it do not mix with it."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None

    def echo(self, line: str) -> None:
        """Print above the bar."""
        if self._bar:
            click.echo("\r\033[K", err=True, nl=False)
        echo(line)

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` items are finished."""
        if self._bar is None and total and sys.stderr.isatty():
            self._bar = click.progressbar(length=total, label=self._label, file=sys.stderr, show_pos=True)
            self._bar.render_progress()
        if self._bar:
            self._bar.update(done - self._bar.pos)

    def close(self) -> None:
        """End the line of the bar."""
        if self._bar:
            self._bar.render_finish()


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A bar with a label, from the first `show` on."""
    shown = Progress(label)
    try:
        yield shown
    finally:
        shown.close()
