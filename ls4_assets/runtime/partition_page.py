"""A correction of the Dagster UI, so that the page of a failed partition shows why it failed.

The reason is an observation, but Dagster's page of a partition shows metadata of materializations only, so a partition that was
never materialized has "No metadata entries". A materialization would make it look healthy. So the webserver sends the script of
this page with the edits below. The script of another Dagster release stays as it is, and test_partition_page.py fails.
"""

import gzip
import hashlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import dagster_webserver

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

_SCRIPTS = Path(dagster_webserver.__file__).parent / "webapp" / "build" / "_next" / "static" / "chunks"
_EDITS = {
    # Without a materialization, show the latest observation, which the page can already draw.
    "latestMaterialization:null!=(a=l[0])?a:null": (
        'latestMaterialization:null!=(a=l[0])?a:o.find(e=>"ObservationEvent"===e.__typename)||null'
    ),
    # The green label is for materializations only.
    'm?(0,i.jsx)(t4.v,{intent:"success",children:"Materialized"})': (
        '"MaterializationEvent"===(null==m?void 0:m.__typename)?(0,i.jsx)(t4.v,{intent:"success",children:"Materialized"})'
    ),
    # Keep the red bar with the run when the observation is of the same run.
    "E=(null==c?void 0:c.id)!==(null==f?void 0:f.id)?c:null": (
        'E="MaterializationEvent"!==(null==m?void 0:m.__typename)||(null==c?void 0:c.id)!==(null==f?void 0:f.id)?c:null'
    ),
}


@dataclass(frozen=True)
class Script:
    """The script of the page, corrected and compressed."""

    name: str
    compressed: bytes

    @property
    def etag(self) -> bytes:
        return b'"%s"' % hashlib.sha256(self.compressed).hexdigest()[:32].encode()


@cache
def corrected_script() -> Script | None:
    """The corrected script; None if this release of Dagster has no script to which each edit applies once."""
    for path in sorted(_SCRIPTS.glob("*.js")):
        text = path.read_text(encoding="utf-8")
        if all(text.count(original) == 1 for original in _EDITS):
            for original, replacement in _EDITS.items():
                text = text.replace(original, replacement)
            return Script(path.name, gzip.compress(text.encode(), compresslevel=6, mtime=0))
    logging.getLogger(__name__).warning("The page of a failed partition shows no reason, because the Dagster UI has changed.")
    return None


def with_reasons(app: App) -> App:
    """The webserver `app`, with the corrected script in place of its own."""
    script = corrected_script()
    if script is None:
        return app

    async def serve(scope: Message, receive: Any, send: Any) -> None:
        headers = {name.lower(): value for name, value in scope.get("headers", ())}
        is_script = scope["type"] == "http" and scope["path"].endswith(f"/{script.name}")
        # Every browser accepts gzip.
        if not is_script or b"gzip" not in headers.get(b"accept-encoding", b""):
            await app(scope, receive, send)
            return
        is_cached = headers.get(b"if-none-match") == script.etag
        await send({"type": "http.response.start", "status": 304 if is_cached else 200, "headers": _headers(script)})
        is_empty = is_cached or scope["method"] == "HEAD"
        await send({"type": "http.response.body", "body": b"" if is_empty else script.compressed})

    return serve


def _headers(script: Script) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"text/javascript; charset=utf-8"),
        (b"content-encoding", b"gzip"),
        (b"vary", b"Accept-Encoding"),
        (b"cache-control", b"no-cache"),
        (b"etag", script.etag),
    ]
