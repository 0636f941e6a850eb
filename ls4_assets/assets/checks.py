"""Asset checks of collections and of the archive. Checks of frames are in `frame_checks`; the counts themselves in `db.audit`.

Each map publisher has two checks on `mapfile`, which it names: MapServer's are `mapfile_valid` and `map_renders`. The first one
blocks: invalid documents are never published, so the last good map is still served. If it passes, it has read the documents back
from the bucket. The second one (does the published map show a photograph?) and `index_counts_match` on `tile_index` (do index,
frames, COGs and dropped tifs have the same counts?) check what is already published and block nothing. `archive_counts_match`
compares the counts of all collections once a day.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from ls4_assets.assets import keys
from ls4_assets.db import tile_index as index
from ls4_assets.db.audit import Audit, audit_archive, audit_collection
from ls4_assets.domain.names import Collection
from ls4_assets.publishing import maps
from ls4_assets.publishing.map_publisher import InvalidMapError, MapPublisher, SmokeTestResult
from resources.archive import Archive

INDEX_COUNTS_MATCH = "index_counts_match"
ARCHIVE_COUNTS_MATCH = "archive_counts_match"


def map_check_specs(shard: str, publishers: Sequence[MapPublisher]) -> list[dg.AssetCheckSpec]:
    asset = keys.mapfile(shard)
    return [
        _spec(check.name, asset, shard, check.description, blocking=is_blocking)
        for publisher in publishers
        for check, is_blocking in ((publisher.validity_check, True), (publisher.smoke_check, False))
    ]


def index_check_spec(shard: str) -> dg.AssetCheckSpec:
    description = "The tile index's rows, the frames, the COGs in the bucket and the dropped tifs have the same counts."
    return _spec(INDEX_COUNTS_MATCH, keys.tile_index(shard), shard, description)


def _spec(name: str, asset: dg.AssetKey, shard: str, description: str, *, blocking: bool = False) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        # Partitioned checks are a preview feature in Dagster 1.13 (version pinned, behavior tested in test_secrets.py).
        warnings.simplefilter("ignore", dg.PreviewWarning)
        partitions = keys.collection_partitions(shard)
        return dg.AssetCheckSpec(name, asset=asset, partitions_def=partitions, blocking=blocking, description=description)


def check_published_documents(archive: Archive, collection: Collection, publisher: MapPublisher) -> dg.AssetCheckResult:
    """Result of the validity check for the documents in the bucket; it passes if the collection was withdrawn and has none."""
    documents = maps.read_published(archive.storage, publisher, collection)
    missing = [key for key in publisher.document_keys(collection) if documents and key not in documents]
    findings = [*publisher.validate(documents), *(f"{key} is missing." for key in missing)]
    return _validity_result(collection, publisher, findings, "published" if documents else "withdrawn")


def check_map_renders(archive: Archive, collection: Collection, publisher: MapPublisher) -> dg.AssetCheckResult:
    """Result of the smoke check for the published map; its severity is a warning if no map server could be reached."""
    name = publisher.smoke_check.name
    if archive.storage.head(publisher.document_keys(collection)[0]) is None:
        return dg.AssetCheckResult(passed=True, check_name=name, metadata={"state": "withdrawn"})
    with archive.database.connect() as connection:
        point = index.find_point_on_frame(connection, collection)
    test = publisher.smoke_test(archive, collection, point) if point else SmokeTestResult(None, "the index has no frames")
    return dg.AssetCheckResult(
        passed=not test.error,
        check_name=name,
        severity=dg.AssetCheckSeverity.ERROR if test.renderer else dg.AssetCheckSeverity.WARN,
        description=test.error and f"{test.error}; fix that and materialize the mapfile again.",
        metadata={"rendered_by": test.renderer or "nothing"},
    )


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


def rejected_map_results(collection: Collection, error: InvalidMapError) -> Iterator[dg.AssetCheckResult]:
    """Failed results of the validity checks for documents that were not published."""
    for name, findings in error.findings.items():
        publisher = maps.MAP_PUBLISHERS[name]
        yield _validity_result(collection, publisher, findings, f"rejected; the last good {publisher.noun} stays")


def _validity_result(collection: Collection, publisher: MapPublisher, findings: Sequence[str], state: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not findings,
        check_name=publisher.validity_check.name,
        description="; ".join(findings) or None,
        metadata={
            "key": dg.MetadataValue.text(publisher.document_keys(collection)[0]),
            "state": dg.MetadataValue.text(state),
            "findings": dg.MetadataValue.int(len(findings)),
        },
    )
