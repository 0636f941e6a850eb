"""The operator's word on deletions that the guard holds back, as `ls4 confirm-deletion` gives it."""

from collections.abc import Callable

from ls4_assets.db.lookup import find_collection
from ls4_assets.ingest.deletions import confirm, held_collections, held_keys
from ls4_assets.ingest.scan import check_keys
from resources.archive import Archive

# So many files are named before the question.
_NAMED = 20


def confirm_deletion(archive: Archive, name: str, say: Callable[[str], None], ask: Callable[[str], bool]) -> bool:
    """Name what will go, ask, and let exactly that go. Returns False when nothing is held, or the answer is no."""
    with archive.database.connect() as connection:
        of = find_collection(connection, name).name
        keys = held_keys(connection, of)
    # Files that were put back a moment ago are no longer held.
    for error in check_keys(archive, keys).errors:
        say(error)
    with archive.database.connect() as connection:
        keys = held_keys(connection, of)
        held = held_collections(connection, of)
    if not held:
        say(f"No deletion of {of} waits to be confirmed; `ls4 status` names those that do.")
        return False
    for key in keys[:_NAMED]:
        say(key)
    if len(keys) > _NAMED:
        say(f"and {len(keys) - _NAMED} more")
    if not ask(f"Take {held[0].held} of {held[0].frames} frames of {of} off the map, and remove what was made of them?"):
        say("Nothing was removed. Put the files back, and they are no longer asked for.")
        return False
    with archive.database.begin() as connection:
        count = confirm(connection, keys)
    say(f"{count} files of {of} count as deleted now; their frames leave the map with the next rebuild, within minutes.")
    return True
