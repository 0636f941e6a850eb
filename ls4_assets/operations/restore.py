"""`ls4 db restore`: restore a lost index database from the bucket alone.

It adopts the finished COGs, reads their stacking order from the published shapefiles, and queues tifs that have no COG. The
sensor `publish_collections` then writes tables, shapefiles and mapfiles. Versions derive from the clock, so none is reused.
"""

import math
from collections.abc import Callable

from sqlalchemy import inspect

from ls4_assets.db.schema import SCHEMA, frame
from ls4_assets.errors import ConfigurationError
from ls4_assets.ingest.scan import scan_bucket
from ls4_assets.operations.adopt import run
from ls4_assets.operations.adopt.archive import scans_paused
from ls4_assets.operations.adopt.stacking import restore_stacking_order
from ls4_assets.operations.reconcile.recorded_state import has_live_rows, list_collections
from resources.archive import Archive
from resources.scratch import scratch_folder


def restore_database(archive: Archive, echo: Callable[[str], None], *, apply: bool) -> bool:
    """Plan, or restore when `apply` is set. Return whether everything succeeded.

    Raises ConfigurationError when the database is not empty.
    """
    _require_empty_database(archive)
    succeeded = run.run(archive.settings, (), echo, apply=apply, ignore_times=False)
    if not apply:
        return succeeded
    _restore_stacking_orders(archive, echo)
    with scans_paused(archive.settings):
        scan = scan_bucket(archive, seconds=math.inf, keys=1 << 62)
    waiting, rejected = scan.counts["queued"] + scan.counts["settling"], scan.counts["rejected"]
    echo(f"{waiting} georef tifs have no COG to adopt and will be processed; {rejected} are rejected by name.")
    for sentence in scan.errors:
        echo(sentence)
    echo("Start the daemon if it is not running; then run `ls4 reconcile` to see what is left to fix.")
    return succeeded and not scan.errors


def _require_empty_database(archive: Archive) -> None:
    if not inspect(archive.database).has_table(frame.name, schema=SCHEMA):
        raise ConfigurationError("The database has no ls4 tables; create them with `ls4 db init`, then restore again.")
    with archive.database.connect() as connection:
        if has_live_rows(connection):
            raise ConfigurationError(
                "The database has frames of this archive, and `ls4 db restore` needs an empty one; fix it with `ls4 reconcile`."
            )


def _restore_stacking_orders(archive: Archive, echo: Callable[[str], None]) -> None:
    with archive.database.connect() as connection:
        collections = list_collections(connection)
    with scratch_folder("ls4-index-", archive.settings.work_dir) as folder:
        for collection in collections:
            with archive.database.begin() as connection:
                if restore_stacking_order(connection, collection, archive.storage, folder) is None:
                    echo(f"{collection.name} has no shapefile with its stacking order; its frames are stacked by name.")
