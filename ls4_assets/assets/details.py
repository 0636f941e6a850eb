"""What every asset shows in the Dagster UI besides its content: owners, level, a link to its code, and how fresh it must be.

Description and kinds depend on the asset and stand where it is defined. test_definitions.py fails for an asset that lacks one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict

import dagster as dg

from ls4_assets.settings import DEFAULT_OWNERS, Settings

CODE_KEY = "dagster/code_references"
LEVEL_TAG = "ls4/level"
Level = Literal["frame", "collection", "archive"]

# For assets that are built every day. Only they have a policy: the others change when staff drop something.
DAILY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=30), fail_window=timedelta(hours=48))

# What sensors may request. The Automation page loads every asset that a sensor selects.
MADE_BY_COLLECTIONS = dg.AssetSelection.tag(LEVEL_TAG, "collection").materializable()
MADE_BY_FRAMES_AND_COLLECTIONS = dg.AssetSelection.tag(LEVEL_TAG, "frame").materializable() | MADE_BY_COLLECTIONS

_CHECKOUT = Path(__file__).parents[2]


class AssetFields(TypedDict):
    """Keyword arguments of `dg.asset` and `dg.AssetSpec`."""

    owners: Sequence[str]
    tags: Mapping[str, str]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class AssetDetails:
    """owners: email addresses or `team:name`. source_url: folder of this version's code; empty: show the path of the file."""

    owners: tuple[str, ...]
    source_url: str

    @classmethod
    def from_settings(cls, settings: Settings) -> "AssetDetails":
        return cls(settings.asset_owners, settings.source_url)

    def of(self, function: Callable[..., Any], level: Level) -> AssetFields:
        """Fields of an asset that `function` builds, one for each frame, each collection or the whole archive."""
        return _fields(self, function, level)


# With the defaults of the settings.
DEFAULT_DETAILS = AssetDetails(owners=DEFAULT_OWNERS, source_url="")


@cache
def _fields(details: AssetDetails, function: Callable[..., Any], level: Level) -> AssetFields:
    """Cached, because all shards share them and Dagster validates metadata slowly."""
    return {
        "owners": details.owners,
        "tags": {LEVEL_TAG: level},
        "metadata": {CODE_KEY: dg.CodeReferencesMetadataValue(code_references=[_reference(details.source_url, function)])},
    }


def _reference(source_url: str, function: Callable[..., Any]) -> dg.LocalFileCodeReference | dg.UrlCodeReference:
    # Dagster's `with_source_code_references` parses the source of every asset and copies its definition, which takes seconds.
    code = function.__code__
    path, line, label = Path(code.co_filename), code.co_firstlineno, function.__name__
    if source_url:
        return dg.UrlCodeReference(url=f"{source_url}/{path.relative_to(_CHECKOUT).as_posix()}#L{line}", label=label)
    return dg.LocalFileCodeReference(file_path=str(path), line_number=line, label=label)
