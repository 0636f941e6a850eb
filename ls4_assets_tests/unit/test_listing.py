"""The walk over the archive: in key order, from behind any key, in pieces that never part what belongs together."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from ls4_assets.domain.names import frame_stem
from ls4_assets.ingest import listing
from ls4_assets.ingest.listing import END, KeyRange
from resources.storage import StoredObject, end_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FOLDER = "bw/Travis/USDA_1958/frames/georef/"
DROPS = [
    "bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-1.tif",
    "bw/Travis/USDA_1958/frames/02-08-60_6-1.tif",
    f"{FOLDER}02-08-60_6-1.TIF",
    f"{FOLDER}02-08-60_6-1.tfw",
    f"{FOLDER}02-08-60_6-1.tif",
    f"{FOLDER}02-08-60_6-1.tif.aux.xml",
    f"{FOLDER}02-08-60_6-10.tif",
    f"{FOLDER}a.b.tif",
    f"{FOLDER}a.tfw",
    f"{FOLDER}a.tif",
    f"{FOLDER}picture.jpg",
    "bw/Travis/USDA_1959/frames/georef/02-08-60_6-1.tif",
    "bw/loose.tif",
    "rgb/deep/er/georef/x.tif",
    "top.tif",
]
NO_DROPS = [
    f"{FOLDER}deflate/02-08-60_6-1.tif",
    f"{FOLDER}notes.txt",
    "bw/Travis/USDA_1958/frames/cog/02-08-60_6-1.tif",
    "bw/Travis/USDA_1958/frames/scanned/02-08-60_6-1.tif",
    "bw/Travis/USDA_1958/frames/02-08-60_6-1.tfw",
    "derived/x.tif",
    "mapfiles/x.map",
]


class Listed:
    """Keys behind the storage port; a folder of `broken` is listed up to the key given for it."""

    is_folder = False

    def __init__(self, keys: list[str], broken: dict[str, str] | None = None) -> None:
        self.keys = sorted(keys)
        self.broken = broken or {}

    def level(self, folder: str, after: str = "") -> Iterator[StoredObject | str]:
        below = [key[len(folder) :] for key in self.keys if key.startswith(folder)]
        names = sorted({name.partition("/")[0] + "/" * ("/" in name) for name in below})
        for key in (f"{folder}{name}" for name in names):
            if folder in self.broken and key >= self.broken[folder]:
                raise OSError("the second page did not come")
            if key.endswith("/"):
                if end_of(key) > after:
                    yield key
            elif key > after:
                yield StoredObject(key, 5, "1", NOW)


def walk(storage: Listed, after: str = "", most: int = 1) -> list[KeyRange]:
    return list(listing.key_ranges(storage, after, most, lambda: False))  # type: ignore[arg-type]


def seen(key_ranges: list[KeyRange]) -> list[str]:
    return [found.key for piece in key_ranges for found in piece.objects]


def test_every_drop_is_seen_once_in_key_order_and_nothing_else() -> None:
    assert seen(walk(Listed(DROPS + NO_DROPS))) == sorted(DROPS)


def test_pieces_follow_each_other_without_a_gap() -> None:
    key_ranges = walk(Listed(DROPS + NO_DROPS))
    assert (key_ranges[0].after, key_ranges[-1].upto) == ("", END)
    assert all(first.upto == second.after for first, second in pairwise(key_ranges))
    for piece in key_ranges:
        assert all(piece.after < found.key <= piece.upto for found in piece.objects)


def test_what_belongs_together_is_never_parted() -> None:
    """x.tif without its world file is another version, and beside x.TIF it is a double."""
    key_ranges = walk(Listed(DROPS))
    assert len(key_ranges) > 8
    for stem in {frame_stem(key) for key in DROPS if frame_stem(key)}:
        assert sum(any(frame_stem(found.key) == stem for found in piece.objects) for piece in key_ranges) == 1


@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_walk_goes_on_from_behind_any_piece(most: int) -> None:
    storage = Listed(DROPS + NO_DROPS)
    for piece in walk(storage, most=most):
        expected = [key for key in sorted(DROPS) if key > piece.next]
        assert seen(walk(storage, piece.next, most)) == expected


def test_a_walk_in_a_hurry_comes_forward_all_the_same() -> None:
    """With no time left each tick stopped where it had begun."""
    storage, after, steps = Listed(DROPS + NO_DROPS), "", 0
    found = []
    while after != END:
        piece = next(iter(listing.key_ranges(storage, after, 100, lambda: True)))  # type: ignore[arg-type]
        found += [of.key for of in piece.objects]
        assert piece.next > after
        after, steps = piece.next, steps + 1
    assert found == sorted(DROPS)
    assert steps > 10


def test_a_folder_whose_listing_breaks_off_is_passed_over_and_no_key_of_it_believed() -> None:
    """The first page held x.tif, the second its world file would have been on: without it the frame was made anew, and wrong."""
    storage = Listed(DROPS, broken={FOLDER: f"{FOLDER}02-08-60_6-1.tif.aux.xml"})
    key_ranges = walk(storage, most=100)
    assert seen(key_ranges) == [key for key in sorted(DROPS) if not key.startswith(FOLDER)]
    assert [piece.unlisted.folder for piece in key_ranges if piece.unlisted] == [FOLDER]
    inside = [key for key in DROPS if key.startswith(FOLDER)]
    for piece in key_ranges:
        assert not [key for key in inside if piece.after < key <= piece.upto]


def test_an_archive_that_cannot_be_listed_ends_the_walk_where_it_stands() -> None:
    storage = Listed(DROPS, broken={"": "rgb/"})
    assert [(piece.objects, piece.next) for piece in walk(storage, most=100)] == [((), "")]


def test_keys_are_looked_at_with_what_belongs_to_them() -> None:
    asked = [f"{FOLDER}02-08-60_6-1.tfw", f"{FOLDER}a.tif", "bw/loose.tif", *NO_DROPS[:1], *NO_DROPS[2:4], *NO_DROPS[5:]]
    found = []
    for folder, keys in listing.by_folder(asked).items():
        found += [of.key for of in listing.beside(Listed(DROPS + NO_DROPS), folder, keys)]  # type: ignore[arg-type]
    assert sorted(found) == sorted([*DROPS[2:6], *DROPS[8:10], "bw/loose.tif"])


def test_many_keys_of_a_folder_are_read_off_one_listing() -> None:
    keys = [f"{FOLDER}02-08-60_6-{number}.tif" for number in range(100, 200)]
    storage = Listed(keys)
    wanted = keys[5:95:3]
    assert [found.key for found in listing.beside(storage, FOLDER, wanted)] == wanted  # type: ignore[arg-type]
