"""`ls4 rebuild`: an index database that was lost, restored from the bucket alone.

Finished COGs are adopted, their stacking order is read back from the published shapefiles, and what has no COG is queued. Tables,
shapefiles and mapfiles follow by the sensor `collections`, under versions that were never used: they count by the clock.
"""

import math
from collections.abc import Callable

from sqlalchemy import inspect

from ls4_assets.db.schema import SCHEMA, frame
from ls4_assets.errors import ConfigurationError
from ls4_assets.ingest.scan import scan_bucket
from ls4_assets.operations.adopt import run
from ls4_assets.operations.adopt.archive import scans_paused
from ls4_assets.operations.adopt.stacking import restore_table
from ls4_assets.operations.reconcile.recorded_state import all_collections, knows_anything
from resources.archive import Archive
from resources.scratch import scratch_folder


def rebuild(archive: Archive, say: Callable[[str], None], *, apply: bool) -> bool:
    """Plan, or restore. Returns whether all went well. Raises ConfigurationError when the database holds anything already."""
    _reject_unless_empty(archive)
    went_well = run.run(archive.settings, (), say, apply=apply, ignore_times=False)
    if not apply:
        return went_well
    _restore_stacking(archive, say)
    with scans_paused(archive.settings):
        look = scan_bucket(archive, seconds=math.inf, keys=1 << 62)
    waiting, rejected = look.counts["queued"] + look.counts["settling"], look.counts["rejected"]
    say(f"{waiting} georef tifs have no COG that could be adopted and are made anew; {rejected} are rejected by name.")
    for sentence in look.errors:
        say(sentence)
    say("Start the daemon, if it does not run; then `ls4 reconcile` tells what is left to mend.")
    return went_well and not look.errors


def _reject_unless_empty(archive: Archive) -> None:
    if not inspect(archive.database).has_table(frame.name, schema=SCHEMA):
        raise ConfigurationError("The database has no tables of ls4's; make them with `ls4 db init`, and rebuild then.")
    with archive.database.connect() as connection:
        if knows_anything(connection):
            raise ConfigurationError(
                "The database knows frames of this archive, and `ls4 rebuild` is for one that was lost: `ls4 reconcile` mends it."
            )


def _restore_stacking(archive: Archive, say: Callable[[str], None]) -> None:
    with archive.database.connect() as connection:
        collections = all_collections(connection)
    with scratch_folder("ls4-index-", archive.settings.work_dir) as folder:
        for of in collections:
            with archive.database.begin() as connection:
                if restore_table(connection, of, archive.storage, folder) is None:
                    say(f"{of.name} has no shapefile that tells its stacking order; its frames lie by their names.")
