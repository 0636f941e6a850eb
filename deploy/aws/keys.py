"""Patterns of object keys for policies."""

from ls4_assets.domain.film_types import FILM_TYPES


def under_film_types(keys: str) -> tuple[str, ...]:
    """The pattern below the collections of every film type. In a policy `*` also matches `/`."""
    return tuple(f"{film_type}/*/{keys}" for film_type in FILM_TYPES)
