"""The walk over the archive: in key order, resumable after any key, in ranges that keep a tif and its sidecars together."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from ls4_assets.domain.sidecars import frame_stem
from ls4_assets.domain.storages import S3
from ls4_assets.ingest import listing
from ls4_assets.ingest.listing import END, KeyRange
from resources.storage import StoredObject, folder_end

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
OTHER_KEYS = [
    f"{FOLDER}deflate/02-08-60_6-1.tif",
    f"{FOLDER}notes.txt",
    "bw/Travis/USDA_1958/frames/cog/02-08-60_6-1.tif",
    "bw/Travis/USDA_1958/frames/scanned/02-08-60_6-1.tif",
    "bw/Travis/USDA_1958/frames/02-08-60_6-1.tfw",
    "derived/x.tif",
    "mapfiles/x.map",
]


class KeyListing:
    """A storage of keys; the listing of a folder in `broken` fails at the key given for it."""

    capabilities = S3.capabilities

    def __init__(self, keys: list[str], broken: dict[str, str] | None = None) -> None:
        self.keys = sorted(keys)
        self.broken = broken or {}

    def list_level(self, folder: str, after: str = "") -> Iterator[StoredObject | str]:
        below = [key[len(folder) :] for key in self.keys if key.startswith(folder)]
        names = sorted({name.partition("/")[0] + "/" * ("/" in name) for name in below})
        for key in (f"{folder}{name}" for name in names):
            if folder in self.broken and key >= self.broken[folder]:
                raise OSError("the second page did not come")
            if key.endswith("/"):
                if folder_end(key) > after:
                    yield key
            elif key > after:
                yield StoredObject(key, 5, "1", NOW)


def walk(storage: KeyListing, start: str = "", limit: int = 1) -> list[KeyRange]:
    return list(listing.walk_key_ranges(storage, start, limit, lambda: False))  # type: ignore[arg-type]


def listed_keys(key_ranges: list[KeyRange]) -> list[str]:
    return [stored.key for key_range in key_ranges for stored in key_range.objects]


def test_every_drop_is_listed_once_in_key_order_and_nothing_else() -> None:
    assert listed_keys(walk(KeyListing(DROPS + OTHER_KEYS))) == sorted(DROPS)


def test_ranges_follow_each_other_without_a_gap() -> None:
    key_ranges = walk(KeyListing(DROPS + OTHER_KEYS))
    assert (key_ranges[0].start, key_ranges[-1].end) == ("", END)
    assert all(first.end == second.start for first, second in pairwise(key_ranges))
    for key_range in key_ranges:
        assert all(key_range.start < stored.key <= key_range.end for stored in key_range.objects)


def test_tif_and_sidecars_are_in_the_same_range() -> None:
    """x.tif without its world file is another version, and with x.TIF it is a duplicate."""
    key_ranges = walk(KeyListing(DROPS))
    assert len(key_ranges) > 8
    for stem in {frame_stem(key) for key in DROPS if frame_stem(key)}:
        assert sum(any(frame_stem(stored.key) == stem for stored in key_range.objects) for key_range in key_ranges) == 1


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_walk_resumes_after_any_range(limit: int) -> None:
    storage = KeyListing(DROPS + OTHER_KEYS)
    for key_range in walk(storage, limit=limit):
        expected = [key for key in sorted(DROPS) if key > key_range.next_start]
        assert listed_keys(walk(storage, key_range.next_start, limit)) == expected


def test_walk_after_its_deadline_still_advances() -> None:
    """With no time left, each tick stopped where it had started."""
    storage, start, steps = KeyListing(DROPS + OTHER_KEYS), "", 0
    keys = []
    while start != END:
        key_range = next(iter(listing.walk_key_ranges(storage, start, 100, lambda: True)))  # type: ignore[arg-type]
        keys += [stored.key for stored in key_range.objects]
        assert key_range.next_start > start
        start, steps = key_range.next_start, steps + 1
    assert keys == sorted(DROPS)
    assert steps > 10


def test_folder_with_an_interrupted_listing_is_skipped_whole() -> None:
    """The first page had x.tif, the second, failed one its world file: the frame was made again without it, and wrong."""
    storage = KeyListing(DROPS, broken={FOLDER: f"{FOLDER}02-08-60_6-1.tif.aux.xml"})
    key_ranges = walk(storage, limit=100)
    assert listed_keys(key_ranges) == [key for key in sorted(DROPS) if not key.startswith(FOLDER)]
    assert [key_range.unlisted.folder for key_range in key_ranges if key_range.unlisted] == [FOLDER]
    inside = [key for key in DROPS if key.startswith(FOLDER)]
    for key_range in key_ranges:
        assert not [key for key in inside if key_range.start < key <= key_range.end]


def test_failed_listing_of_the_bucket_ends_the_walk() -> None:
    storage = KeyListing(DROPS, broken={"": "rgb/"})
    assert [(key_range.objects, key_range.next_start) for key_range in walk(storage, limit=100)] == [((), "")]


def test_siblings_of_keys_are_listed() -> None:
    requested = [
        f"{FOLDER}02-08-60_6-1.tfw",
        f"{FOLDER}a.tif",
        "bw/loose.tif",
        *OTHER_KEYS[:1],
        *OTHER_KEYS[2:4],
        *OTHER_KEYS[5:],
    ]
    siblings = []
    for folder, keys in listing.group_by_folder(requested).items():
        siblings += [stored.key for stored in listing.list_siblings(KeyListing(DROPS + OTHER_KEYS), folder, keys)]  # type: ignore[arg-type]
    assert sorted(siblings) == sorted([*DROPS[2:6], *DROPS[8:10], "bw/loose.tif"])


def test_many_keys_of_a_folder_are_read_from_one_listing() -> None:
    keys = [f"{FOLDER}02-08-60_6-{number}.tif" for number in range(100, 200)]
    storage = KeyListing(keys)
    requested = keys[5:95:3]
    assert [stored.key for stored in listing.list_siblings(storage, FOLDER, requested)] == requested  # type: ignore[arg-type]
