"""Properties of Azure Blob Storage: tags, transfers in parts, names that obstore cannot list, errors and credentials."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
import pytest
from obstore.store import AzureStore

from ls4_assets.errors import ConfigurationError
from ls4_assets_tests.azure_server import ACCOUNT_KEY, azure_server_fixture, connection_string  # noqa: F401
from ls4_assets_tests.integration.storage_fixtures import (  # noqa: F401
    KEY,
    MEGABYTE,
    azure_only,
    keys,
    put_raw,
    running_azurite,
    storage_fixture,
)
from ls4_assets_tests.s3_servers import s3_server_fixture  # noqa: F401
from resources import azure_storage
from resources.azure_storage import AzureStorage, account_config

if TYPE_CHECKING:
    from obstore import GetResult

TEXT = "AZURE_STORAGE_CONNECTION_STRING"
TYPES = {"cog/x.tif": "image/tiff", "derived/x.webp": "image/webp", "mapfiles/x.json": "application/json"}


@azure_only
def test_only_intermediates_have_a_tag(storage: AzureStorage, tmp_path: Path) -> None:
    """A lifecycle rule filters on this blob index tag, also of a file that is uploaded in parts."""
    small, large = tmp_path / "small.tif", tmp_path / "large.tif"
    small.write_bytes(b"x")
    large.write_bytes(bytes(17 * MEGABYTE))
    storage.upload(small, "deflate/small.tif", intermediate=True)
    storage.upload(large, "deflate/large.tif", intermediate=True)
    storage.upload(small, "cog/small.tif")
    tags = {key: running_azurite().request("GET", f"{storage.container}/{key}", {"comp": "tags"}).text for key in keys(storage)}
    tagged = "<Tag><Key>ls4</Key><Value>intermediate</Value></Tag>"
    assert {key: tagged in text for key, text in tags.items()} == {
        "cog/small.tif": False,
        "deflate/large.tif": True,
        "deflate/small.tif": True,
    }


@azure_only
def test_large_file_is_transferred_in_parts(storage: AzureStorage, tmp_path: Path) -> None:
    """One request for a whole tif ended at its timeout, whatever had arrived by then."""
    path, copy = tmp_path / "large.tif", tmp_path / "copy.tif"
    path.write_bytes(os.urandom(83 * MEGABYTE + 5))
    assert storage.upload(path, KEY).size == 83 * MEGABYTE + 5
    blocks = running_azurite().request("GET", f"{storage.container}/{KEY}", {"comp": "blocklist", "blocklisttype": "committed"})
    assert blocks.text.count("<Block>") == 6
    storage.download(KEY, copy)
    assert copy.read_bytes() == path.read_bytes()


@azure_only
def test_file_replaced_during_a_download_is_never_mixed(
    storage: AzureStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure_storage, "_PART_BYTES", 10)
    storage.put(KEY, b"a" * 35)
    get, calls = obstore.get, iter(range(100))

    def replace_first(store: AzureStore, key: str, **arguments: Any) -> "GetResult":
        if next(calls) == 2:
            storage.put(KEY, b"b" * 25)
        return get(store, key, **arguments)

    monkeypatch.setattr(obstore, "get", replace_first)
    storage.download(KEY, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"b" * 25
    assert next(calls) > 4


@azure_only
def test_blobs_have_the_content_type_that_browsers_need(storage: AzureStorage, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    for key, content_type in TYPES.items():
        storage.upload(path, key)
        storage.put(f"put/{key}", b"x")
        storage.put_if_absent(f"new/{key}", b"x")
        for written in (key, f"put/{key}", f"new/{key}"):
            head = running_azurite().request("HEAD", f"{storage.container}/{written}")
            assert head.headers["content-type"] == content_type


@azure_only
def test_blob_with_an_empty_segment_is_reported_with_advice(storage: AzureStorage) -> None:
    """obstore cannot list it. Its folder must not look empty, and the others stay usable."""
    put_raw(storage, "bw/Travis//x.tif")
    storage.put("bw/Bastrop/x.tif", b"x")
    with pytest.raises(ConfigurationError, match=r"^bw/Travis/ holds a blob .*; rename or delete it\.$"):
        list(storage.list_level("bw/Travis/"))
    assert keys(storage, "bw/Bastrop/") == ["bw/Bastrop/x.tif"]
    assert list(storage.list_level("bw/")) == ["bw/Bastrop/", "bw/Travis/"]


@azure_only
@pytest.mark.parametrize(
    ("url", "key", "declared"),
    [("http://127.0.0.1:9/devstoreaccount1", ACCOUNT_KEY, "outage"), (None, "d3Jvbmc=", "rejected")],
    ids=["outage", "wrong key"],
)
def test_failure_on_azure_is_of_the_declared_class(
    storage: AzureStorage, monkeypatch: pytest.MonkeyPatch, url: str | None, key: str, declared: str
) -> None:
    """An outage must raise before Dagster stops the tick after 60 s, and never look like a missing object."""
    text = connection_string(url or running_azurite().url, key)
    storage.put(KEY, b"x")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    stranger = AzureStorage(storage.container)
    started = time.monotonic()
    for use in (lambda: stranger.head(KEY), lambda: stranger.read(KEY), lambda: stranger.put(KEY, b"y")):
        with pytest.raises(getattr(storage.errors, declared)):
            use()
    with pytest.raises(storage.errors.outage):
        list(stranger.list_level(""))
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("variables", "config"),
    [
        ({"AZURE_STORAGE_ACCOUNT": "scans"}, {"account_name": "scans"}),
        (
            {TEXT: "DefaultEndpointsProtocol=https;AccountName=scans;AccountKey=a2V5==;EndpointSuffix=x.y"},
            {"account_name": "scans", "account_key": "a2V5==", "endpoint": "https://scans.blob.x.y"},
        ),
        (
            {TEXT: "BlobEndpoint=https://h/;AccountName=scans;SharedAccessSignature=sv=1&sig=a%3D"},
            {"account_name": "scans", "sas_key": "sv=1&sig=a%3D", "endpoint": "https://h"},
        ),
    ],
)
def test_azure_account_comes_from_the_environment_of_gdal(variables: dict[str, str], config: dict[str, str]) -> None:
    assert account_config(variables) == config


def test_missing_azure_account_is_reported_with_advice() -> None:
    with pytest.raises(ConfigurationError, match="set one of them"):
        account_config({})
