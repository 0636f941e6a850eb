"""Remember what Dagster's storage asks about its own tables.

For databases of older versions, it asks again and again whether a table, column or index is there: most of the statements of an
idle platform, and the slowest. What is there once stays there.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

_Storage = TypeVar("_Storage", bound=type[Any])

_PRESENT: set[tuple[object, ...]] = set()


def remembering(*questions: str) -> Callable[[_Storage], _Storage]:
    """Decorate a storage, so that each of these methods asks the database until the answer is yes."""

    def decorate(storage: _Storage) -> _Storage:
        for question in questions:
            setattr(storage, question, _remember(getattr(storage, question)))
        return storage

    return decorate


def _remember(ask: Callable[..., bool]) -> Callable[..., bool]:
    @wraps(ask)
    def answer(self: Any, *arguments: Any) -> bool:
        # The other arguments are connections.
        key = (self.postgres_url, ask.__qualname__, *(each for each in arguments if isinstance(each, str)))
        if key not in _PRESENT and ask(self, *arguments):
            _PRESENT.add(key)
        return key in _PRESENT

    return answer
