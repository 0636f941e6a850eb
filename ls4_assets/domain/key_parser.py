"""Parsing of object keys and folder paths that people type, with error messages that say how to correct the name.

The dataclasses they are parsed into, and the rules for file names, are in `names`; the sidecars of a tif are in `sidecars`.
Nothing here accesses storage.
"""

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from ls4_assets.domain.film_types import FILM_TYPES, FilmType, join_or
from ls4_assets.domain.names import (
    AGENCY_YEAR_PATTERN,
    FRAME_TYPES,
    MAX_NAME_LENGTH,
    SURVEY_PATTERN,
    Collection,
    Frame,
    Naming,
    ShardKind,
    Shards,
    check_file_name,
)
from ls4_assets.domain.products import PRODUCTS, FrameProduct
from ls4_assets.errors import InvalidNameError


def parse_georef_key(key: str, naming: Naming) -> Frame:
    """Frame of a dropped tif's key, `<film type>/<shard>/<survey>/<type>/georef/<file>.tif`.

    Raises InvalidNameError with one sentence that gives the expected name.
    """
    parts = key.split("/")
    if parts[0] not in FILM_TYPES:
        raise InvalidNameError(f"{key}: {_unknown_film_type(parts)}")
    if len(parts) > 6 and parts[4] == "georef":
        raise InvalidNameError(
            f"{key}: no folders below georef/ are read; move the file up, to {'/'.join([*parts[:5], parts[-1]])}."
        )
    if len(parts) != 6 or parts[4] != "georef":
        raise InvalidNameError(
            f"{key}: a georeferenced tif belongs in <{join_or([*FILM_TYPES])}>/<County>/<AGENCY_YYYY>/<type>/georef/<file>.tif, "
            f"for example {naming.example}/georef/02-08-60_6-107.tif; move the file to such a folder."
        )
    film_type, shard, survey, type_, _, file = parts
    if shard not in naming.shards:
        raise InvalidNameError(f"{key}: {_unknown_shard(shard, naming.shards)}")
    if type_ not in FRAME_TYPES:
        raise InvalidNameError(f"{key}: the folder after {survey} must be frames, index or mosaic, not {type_!r}; rename it.")
    collection = Collection(shard, survey, type_)
    _check_collection(key, collection, naming.shards[shard])
    frame = Frame(collection, film_type, PurePosixPath(file).stem)
    try:
        check_file_name(frame, naming)
    except InvalidNameError as error:
        raise InvalidNameError(f"{key}: {error}") from None
    return frame


def parse_collection_path(path: str, naming: Naming) -> tuple[Collection, FilmType]:
    """Collection and film type of a folder such as `bw/Adams/USDA_1958/frames`. Raises InvalidNameError."""
    parts = path.strip("/").split("/")
    if len(parts) != 4 or parts[0] not in FILM_TYPES or parts[3] not in FRAME_TYPES:
        raise InvalidNameError(
            f"{path}: this is not a collection; write <{join_or([*FILM_TYPES])}>/County/AGENCY_YYYY/type, like {naming.example}."
        )
    if parts[1] not in naming.shards:
        raise InvalidNameError(f"{path}: {_unknown_shard(parts[1], naming.shards)}")
    collection = Collection(parts[1], parts[2], parts[3])
    _check_collection(path, collection, naming.shards[parts[1]])
    return collection, parts[0]


def parse_product_key(key: str, collection: Collection) -> tuple[FrameProduct, Frame] | None:
    """Product and frame of an object's key; None if no frame of `collection` has a product with that key.

    Also a tif whose suffix ls4 would not write, such as x.TIF, counts: lambda-s4 wrote COGs of that name.
    """
    for product, pattern in _product_patterns(collection):
        if match := pattern.fullmatch(key):
            return product, Frame(collection, match["film_type"], match["stem"])
    return None


@lru_cache(maxsize=8)
def _product_patterns(collection: Collection) -> tuple[tuple[FrameProduct, re.Pattern[str]], ...]:
    templates = [(product, product.key) for product in PRODUCTS]
    templates += [(product, f"{product.versions_folder}{{version}}.tif") for product in PRODUCTS if product.versions_folder]
    film_type = f"(?P<film_type>{'|'.join(FILM_TYPES)})"
    fields = {
        "folder": f"{film_type}/{re.escape(f'{collection.shard}/{collection.survey}/{collection.type}')}",
        "collection": re.escape(collection.name),
        "film_type": film_type,
        "stem": "(?P<stem>[^/]+)",
        "version": "[^/]+",
    }
    patterns = ((product, key.replace(".", r"\.").replace(r"\.tif", r"(?i:\.tiff?)")) for product, key in templates)
    return tuple((product, re.compile(pattern.format(**fields))) for product, pattern in patterns)


def _unknown_film_type(parts: Sequence[str]) -> str:
    for film_type, spec in FILM_TYPES.items():
        if parts[0] in spec.aliases:
            moved = "/".join([film_type, *parts[1:]])
            return f"photographs in {spec.title} belong under {film_type}/, so move the file to {moved}."
    folders = join_or([f"{film_type} ({spec.title})" for film_type, spec in FILM_TYPES.items()])
    return f"the first folder must be {folders}; move the file there."


def _unknown_shard(shard: str, shards: Shards) -> str:
    by_lower = {name.lower(): name for name in shards}
    close = [by_lower[name] for name in difflib.get_close_matches(shard.lower(), by_lower, n=1, cutoff=0.7)]
    hint = f"did you mean {close[0]}? Rename the folder" if close else "correct the folder"
    return f"{shard!r} is not a county or agency of this archive; {hint}, or ask the operator to add it to the list of shards."


def _check_collection(key: str, collection: Collection, kind: ShardKind) -> None:
    survey = collection.survey
    if not SURVEY_PATTERN.fullmatch(survey):
        raise InvalidNameError(f"{key}: {survey!r} may contain only letters, digits and single underscores; rename the folder.")
    if kind == "county" and not AGENCY_YEAR_PATTERN.fullmatch(survey):
        raise InvalidNameError(f"{key}: a county's folders are named AGENCY_YYYY, like USDA_1958, not {survey!r}; rename it.")
    if len(collection.name) > MAX_NAME_LENGTH:
        raise InvalidNameError(
            f"{key}: the collection's name {collection.name} is longer than {MAX_NAME_LENGTH} characters; "
            "shorten the folder's name."
        )
