"""Asset checks of collections, and of the archive: what the Dagster UI shows of an index and a mapfile, one evaluation a collection.

`mapfile_valid` on `mapfile` blocks: a mapfile with findings is never put into the bucket, so a failed check means that the
last good map is still served, and a passed one was made over what lies in the bucket now. `map_renders` tells whether mapserv
draws it, and `index_counts_match` on `tile_index` whether index, frames, COGs and dropped tifs agree in number: both tell of what is
published already, and block nothing. `archive_counts_match` asks the same of all collections, once a day.
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
from mapserver.smoke_test import Trial, try_front, try_mapserv
from resources.archive import Archive

NAME = "mapfile_valid"
DRAWN = "map_renders"
INDEX = "index_counts_match"
ARCHIVE = "archive_counts_match"


class InvalidMapfileError(dg.Failure):
    """A mapfile that must not be published, and why."""

    def __init__(self, of: Collection, findings: Sequence[str]) -> None:
        super().__init__(f"The mapfile of {of.name} was not published: {'; '.join(findings)}. Mend the template.")
        self.findings = findings


def mapfile_specs(shard: str) -> list[dg.AssetCheckSpec]:
    whole = "No secret, no machine's address, the layers that published maps ask for."
    drawn = "A real mapserv draws both layers around one frame."
    return [_spec(NAME, keys.mapfile(shard), shard, whole, blocking=True), _spec(DRAWN, keys.mapfile(shard), shard, drawn)]


def index_spec(shard: str) -> dg.AssetCheckSpec:
    what = "Rows of the index, frames, COGs in the bucket and dropped tifs agree in number."
    return _spec(INDEX, keys.tile_index(shard), shard, what)


def _spec(name: str, asset: dg.AssetKey, shard: str, description: str, *, blocking: bool = False) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        # Checks with partitions are a preview in 1.13 (pinned, and tested in test_secrets.py).
        warnings.simplefilter("ignore", dg.PreviewWarning)
        partitions = keys.collection_partitions(shard)
        return dg.AssetCheckSpec(name, asset=asset, partitions_def=partitions, blocking=blocking, description=description)


def published_mapfile(archive: Archive, of: Collection) -> dg.AssetCheckResult:
    """The check over the mapfile as it lies in the bucket; nothing lies there when the collection was withdrawn."""
    if archive.storage.head(of.map_key) is None:
        return _result(of, [], "withdrawn")
    published = archive.storage.read(of.map_key).decode()
    return _result(of, mapfile.findings(published), "published")


def drawn_map(archive: Archive, of: Collection) -> dg.AssetCheckResult:
    """The check over the map that was published: a warning where nothing can draw it."""
    if archive.storage.head(of.map_key) is None:
        return dg.AssetCheckResult(passed=True, check_name=DRAWN, metadata={"state": "withdrawn"})
    trial = _trial(archive, of)
    return dg.AssetCheckResult(
        passed=not trial.wrong,
        check_name=DRAWN,
        severity=dg.AssetCheckSeverity.ERROR if trial.by else dg.AssetCheckSeverity.WARN,
        description=trial.wrong and f"{trial.wrong}; mend that and materialise the mapfile again.",
        metadata={"drawn by": trial.by or "nothing"},
    )


def _trial(archive: Archive, of: Collection) -> Trial:
    settings = archive.settings
    with archive.database.connect() as connection:
        point = index.point_on_frame(connection, of)
    if point is None:
        return Trial(None, "the index has no frames")
    if archive.storage.is_folder:
        published, url = archive.storage.read(of.map_key).decode(), settings.database_url.get_secret_value()
        if trial := try_mapserv(of, published, point, settings.postgres_service, url):
            return trial
    return try_front(of, map_url(of, settings.map_internal_url or settings.map_url), point)


def audited_index(archive: Archive, of: Collection) -> dg.AssetCheckResult:
    with archive.database.connect() as connection:
        return dg.AssetCheckResult(check_name=INDEX, **_told(audit_collection(connection, archive.storage, of)))


@dg.asset_check(
    asset=keys.REJECTED, name=ARCHIVE, description="Dropped, made and indexed frames of all collections agree in number."
)
def archive_counts_match(archive: Archive) -> dg.AssetCheckResult:
    """All collections together."""
    with archive.database.connect() as connection:
        return dg.AssetCheckResult(**_told(audit_archive(connection, archive.settings.profiles)))


archive_audit = dg.ScheduleDefinition(
    name="archive_audit",
    cron_schedule="0 5 * * *",
    target=dg.AssetSelection.checks(archive_counts_match),
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Asks once a day whether the archive adds up.",
)


def _told(audit: Audit) -> dict[str, Any]:
    advice = "`ls4 status` names the collections; materialise tile_index of one that is wrong"
    description = f"{'; '.join(audit.wrong)}: {advice}." if audit.wrong else None
    return {"passed": not audit.wrong, "description": description, "metadata": dict(audit.counts)}


def rejected_mapfile(of: Collection, rejected: InvalidMapfileError) -> dg.AssetCheckResult:
    return _result(of, rejected.findings, "rejected, the last good one stays")


def _result(of: Collection, findings: Sequence[str], state: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not findings,
        check_name=NAME,
        description="; ".join(findings) or None,
        metadata={
            "key": dg.MetadataValue.text(of.map_key),
            "state": dg.MetadataValue.text(state),
            "findings": dg.MetadataValue.int(len(findings)),
        },
    )
