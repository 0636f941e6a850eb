"""Asset checks of collections and of the archive. Checks of frames are in `frame_checks`; the counts themselves in `db.audit`.

`mapfile_valid` on `mapfile` blocks: an invalid mapfile is never published, so the last good map is still served. If the check
passes, it has read the mapfile back from the bucket. `map_renders` (does mapserv draw the map?) and `index_counts_match` on
`tile_index` (do index, frames, COGs and dropped tifs have the same counts?) check what is already published and block nothing.
`archive_counts_match` compares the counts of all collections once a day.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import dagster as dg

from ls4_assets.assets import keys
from ls4_assets.db import tile_index as index
from ls4_assets.db.audit import Audit, audit_archive, audit_collection
from ls4_assets.domain.links import map_url
from ls4_assets.domain.names import Collection
from mapserver import mapfile
from mapserver.smoke_test import SmokeTest, smoke_test_mapserv, smoke_test_web
from resources.archive import Archive

MAPFILE_VALID = "mapfile_valid"
MAP_RENDERS = "map_renders"
INDEX_COUNTS_MATCH = "index_counts_match"
ARCHIVE_COUNTS_MATCH = "archive_counts_match"


class InvalidMapfileError(dg.Failure):
    """A rendered mapfile has findings and must not be published."""

    def __init__(self, collection: Collection, findings: Sequence[str]) -> None:
        super().__init__(
            f"The mapfile of {collection.name} was not published: {'; '.join(findings)}. "
            "Fix the mapfile template and materialize the mapfile again."
        )
        self.findings = findings


def mapfile_check_specs(shard: str) -> list[dg.AssetCheckSpec]:
    valid = (
        "The mapfile contains no password and no machine address, and has the layers that published maps request. "
        "A mapfile that fails is not published, and the last good map stays."
    )
    renders = "A real mapserv draws both layers of the published map around one frame."
    asset = keys.mapfile(shard)
    return [_spec(MAPFILE_VALID, asset, shard, valid, blocking=True), _spec(MAP_RENDERS, asset, shard, renders)]


def index_check_spec(shard: str) -> dg.AssetCheckSpec:
    description = "The tile index's rows, the frames, the COGs in the bucket and the dropped tifs have the same counts."
    return _spec(INDEX_COUNTS_MATCH, keys.tile_index(shard), shard, description)


def _spec(name: str, asset: dg.AssetKey, shard: str, description: str, *, blocking: bool = False) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        # Partitioned checks are a preview feature in Dagster 1.13 (version pinned, behavior tested in test_secrets.py).
        warnings.simplefilter("ignore", dg.PreviewWarning)
        partitions = keys.collection_partitions(shard)
        return dg.AssetCheckSpec(name, asset=asset, partitions_def=partitions, blocking=blocking, description=description)


def check_published_mapfile(archive: Archive, collection: Collection) -> dg.AssetCheckResult:
    """Result of `mapfile_valid` for the mapfile in the bucket; it passes if the collection was withdrawn and has none."""
    if archive.storage.head(collection.map_key) is None:
        return _mapfile_result(collection, [], "withdrawn")
    published = archive.storage.read(collection.map_key).decode()
    return _mapfile_result(collection, mapfile.validate_mapfile(published), "published")


def check_map_renders(archive: Archive, collection: Collection) -> dg.AssetCheckResult:
    """Result of `map_renders` for the published map; its severity is a warning if no map server could be reached."""
    if archive.storage.head(collection.map_key) is None:
        return dg.AssetCheckResult(passed=True, check_name=MAP_RENDERS, metadata={"state": "withdrawn"})
    test = _run_smoke_test(archive, collection)
    return dg.AssetCheckResult(
        passed=not test.error,
        check_name=MAP_RENDERS,
        severity=dg.AssetCheckSeverity.ERROR if test.renderer else dg.AssetCheckSeverity.WARN,
        description=test.error and f"{test.error}; fix that and materialize the mapfile again.",
        metadata={"rendered_by": test.renderer or "nothing"},
    )


def _run_smoke_test(archive: Archive, collection: Collection) -> SmokeTest:
    settings = archive.settings
    with archive.database.connect() as connection:
        point = index.find_point_on_frame(connection, collection)
    if point is None:
        return SmokeTest(None, "the index has no frames")
    if archive.storage.capabilities.has_local_paths:
        published, url = archive.storage.read(collection.map_key).decode(), settings.database_url.get_secret_value()
        if test := smoke_test_mapserv(collection, published, point, settings.postgres_service, url):
            return test
    return smoke_test_web(collection, map_url(collection, settings.map_internal_url or settings.map_url), point)


def check_index_counts(archive: Archive, collection: Collection) -> dg.AssetCheckResult:
    """Result of `index_counts_match`."""
    with archive.database.connect() as connection:
        audit = audit_collection(connection, archive.storage, collection)
    return dg.AssetCheckResult(check_name=INDEX_COUNTS_MATCH, **_audit_fields(audit))


@dg.asset_check(
    asset=keys.REJECTED_FILES,
    name=ARCHIVE_COUNTS_MATCH,
    description="The numbers of dropped, built and indexed frames match over all collections.",
)
def archive_counts_match(archive: Archive) -> dg.AssetCheckResult:
    with archive.database.connect() as connection:
        audit = audit_archive(connection, archive.settings.profiles)
    return dg.AssetCheckResult(**_audit_fields(audit))


archive_audit = dg.ScheduleDefinition(
    name="archive_audit",
    cron_schedule="0 5 * * *",
    target=dg.AssetSelection.checks(archive_counts_match),
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Checks once a day that the numbers of dropped, built and indexed frames match.",
)


def _audit_fields(audit: Audit) -> dict[str, Any]:
    advice = "find the collections with `ls4 status`, and materialize their tile_index"
    description = f"{'; '.join(audit.errors)}; {advice}." if audit.errors else None
    return {"passed": not audit.errors, "description": description, "metadata": dict(audit.counts)}


def rejected_mapfile_result(collection: Collection, error: InvalidMapfileError) -> dg.AssetCheckResult:
    """Failed result of `mapfile_valid` for a mapfile that was not published."""
    return _mapfile_result(collection, error.findings, "rejected; the last good mapfile stays")


def _mapfile_result(collection: Collection, findings: Sequence[str], state: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not findings,
        check_name=MAPFILE_VALID,
        description="; ".join(findings) or None,
        metadata={
            "key": dg.MetadataValue.text(collection.map_key),
            "state": dg.MetadataValue.text(state),
            "findings": dg.MetadataValue.int(len(findings)),
        },
    )
