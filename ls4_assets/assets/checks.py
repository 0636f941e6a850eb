"""Asset checks: what Dagit shows of a mapfile's soundness, one evaluation a collection.

The check blocks: a mapfile with findings is never put into the bucket, so a failed check means that the last good map is still
served, and a passed one was made over what lies in the bucket now.
"""

import warnings
from collections.abc import Sequence

import dagster as dg

from ls4_assets.assets import keys
from ls4_assets.names import Collection
from mapserver import mapfile
from resources.archive import Archive

NAME = "no_secret_and_whole"


class MapfileRefused(dg.Failure):
    """A mapfile that must not be published, and why."""

    def __init__(self, of: Collection, findings: Sequence[str]) -> None:
        super().__init__(f"The mapfile of {of.name} was not published: {'; '.join(findings)}. Mend the template.")
        self.findings = findings


def mapfile_spec(shard: str) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        # Checks with partitions are a preview in 1.13 (pinned, and tested in test_secrets.py).
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            NAME,
            asset=keys.mapfile(shard),
            partitions_def=keys.collection_partitions(shard),
            blocking=True,
            description="No secret, no machine's address, the layers that published maps ask for.",
        )


def published_mapfile(archive: Archive, of: Collection) -> dg.AssetCheckResult:
    """The check over the mapfile as it lies in the bucket; nothing lies there when the collection was withdrawn."""
    if archive.storage.head(of.map_key) is None:
        return _result(of, [], "withdrawn")
    text = archive.storage.read(of.map_key).decode()
    return _result(of, mapfile.findings(text), "published")


def refused_mapfile(of: Collection, refused: MapfileRefused) -> dg.AssetCheckResult:
    return _result(of, refused.findings, "refused, the last good one stays")


def _result(of: Collection, findings: Sequence[str], state: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not findings,
        description="; ".join(findings) or None,
        metadata={
            "key": dg.MetadataValue.text(of.map_key),
            "state": dg.MetadataValue.text(state),
            "findings": dg.MetadataValue.int(len(findings)),
        },
    )
