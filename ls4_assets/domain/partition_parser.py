"""Partition keys that come from people: anyone can add one in the Materialize dialog of the Dagster UI.

Keys that ls4 wrote itself are read by `Frame.from_partition` and `Collection.from_partition`, which check nothing. Keys of
objects are parsed in `key_parser`. File names are not checked against the archive's rules here: adopted frames may break them.
"""

import re

from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import FRAME_TYPES, SURVEY_PATTERN, Collection, Frame
from ls4_assets.domain.printable import printable
from ls4_assets.errors import InvalidNameError

_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*")


def parse_frame_partition(shard: str, partition: str) -> Frame:
    """Frame of a partition key such as USDA_1958/frames/bw/02-08-60_6-107. Raises InvalidNameError with what to do."""
    match partition.split("/"):
        case [survey, type_, film_type, stem] if (
            _is_collection(survey, type_) and film_type in FILM_TYPES and _STEM.fullmatch(stem)
        ):
            return Frame.from_partition(shard, partition)
    raise _invalid_partition(partition, "frame", "USDA_1958/frames/bw/02-08-60_6-107")


def parse_collection_partition(shard: str, partition: str) -> Collection:
    """Collection of a partition key such as USDA_1958/frames. Raises InvalidNameError with what to do."""
    match partition.split("/"):
        case [survey, type_] if _is_collection(survey, type_):
            return Collection.from_partition(shard, partition)
    raise _invalid_partition(partition, "collection", "USDA_1958/frames")


def _is_collection(survey: str, type_: str) -> bool:
    return SURVEY_PATTERN.fullmatch(survey) is not None and type_ in FRAME_TYPES


def _invalid_partition(partition: str, kind: str, example: str) -> InvalidNameError:
    return InvalidNameError(
        f"The partition {printable(partition)} names no {kind}, as {example} does; remove it with `ls4 reconcile --apply`."
    )
