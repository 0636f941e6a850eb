"""Names and texts of others as they may be shown: in a terminal, a message, or the Dagster UI.

A line break in a file name forges a line of a log, an escape sequence rewrites the terminal, and a mark of the writing direction
makes `gpj.tif` look like `tif.jpg`.
"""

import unicodedata

# Control characters, format characters (directions of writing, zero width), line and paragraph separators, lone surrogates.
_HIDDEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})


def printable(text: str) -> str:
    r"""Returns `text` on one line, with each hidden character as its escape sequence, such as \n or \u202e."""
    if text.isprintable():
        return text
    return "".join(_escape(char) if unicodedata.category(char) in _HIDDEN else char for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
