"""The script of the Dagster UI that shows why a partition failed."""

import asyncio
import gzip
from typing import Any

from ls4_assets.runtime.partition_page import corrected_script, with_reasons


def request(path: str, **headers: str) -> list[dict[str, Any]]:
    """The messages of a response; those of the webserver itself are empty."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    async def send(message: Any) -> None:
        sent.append(message)

    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": fields}
    asyncio.run(with_reasons(app)(scope, send, send))  # type: ignore[arg-type]
    return sent


def test_failed_partition_shows_its_observation() -> None:
    """A failed partition had "No metadata entries". Fails with a Dagster release that has another script."""
    script = corrected_script()
    assert script, "compare the edits with AssetPartitionDetail.tsx of the new release"
    start, body = request(f"/read-only/_next/static/chunks/{script.name}", accept_encoding="gzip, br")
    text = gzip.decompress(body["body"]).decode()
    assert start["status"] == 200 and 'o.find(e=>"ObservationEvent"===e.__typename)' in text


def test_browser_keeps_the_script_and_gets_others_from_dagster() -> None:
    script = corrected_script()
    assert script
    path = f"/_next/static/chunks/{script.name}"
    start, body = request(path, accept_encoding="gzip", if_none_match=script.etag.decode())
    assert (start["status"], body["body"]) == (304, b"")
    assert request("/_next/static/chunks/other.js", accept_encoding="gzip") == []
    assert request(path, accept_encoding="identity") == []
