"""Cutting long sequences into bounded pieces (itertools.batched comes with Python 3.12)."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in order; the last may be shorter."""
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece
