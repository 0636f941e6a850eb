"""`ls4 confirm-deletion`: shows the deletions that the guard holds, asks the operator, and approves exactly those.

The guard is in `deletions`. This is a module of its own because it rechecks the held keys with `scan`, which uses `deletions`.
"""

from collections.abc import Callable

from ls4_assets.db.lookup import find_collection
from ls4_assets.ingest.deletions import approve_deletions, list_held_deletions, list_held_keys
from ls4_assets.ingest.scan import check_keys
from resources.archive import Archive

# Number of files listed before the question.
_MAX_LISTED = 20


def confirm_deletion(archive: Archive, name: str, echo: Callable[[str], None], ask: Callable[[str], bool]) -> bool:
    """List what would be removed, ask, and approve exactly that. Returns False when nothing is held or the answer is no."""
    with archive.database.connect() as connection:
        collection_name = find_collection(connection, name).name
        keys = list_held_keys(connection, collection_name)
    # Releases files that were put back a moment ago.
    for error in check_keys(archive, keys).errors:
        echo(error)
    with archive.database.connect() as connection:
        keys = list_held_keys(connection, collection_name)
        held = list_held_deletions(connection, collection_name)
    if not held:
        echo(f"No deletion of {collection_name} is held. `ls4 status` lists the collections with held deletions.")
        return False
    for key in keys[:_MAX_LISTED]:
        echo(key)
    if len(keys) > _MAX_LISTED:
        echo(f"and {len(keys) - _MAX_LISTED} more")
    if not ask(f"Remove {held[0].held} of {held[0].frames} frames of {collection_name} from the map and delete their products?"):
        echo("Nothing was removed. Put the files back to end the hold.")
        return False
    with archive.database.begin() as connection:
        count = approve_deletions(connection, keys)
    echo(
        f"{count} files of {collection_name} are marked as deleted; their frames leave the map with the next rebuild, in minutes."
    )
    return True
