"""What the archive file adds to the map page: `/archive.json`, and the base map and the gazetteer that it names.

The page itself is in `static`; it reads `/archive.json` when it opens (viewer/src/archive.js).
"""

import hashlib
import json
from pathlib import Path

from ls4_assets.domain.archive_file import ArchiveDescription
from mapserver.files import write_atomically

ARCHIVE_DOCUMENT = "archive.json"


def install_archive_page(folder: Path, archive: ArchiveDescription) -> None:
    """Write the document and the files to `folder`, the root of the page. The document comes last: it names the others."""
    page = archive.page
    document = {
        "title": archive.title,
        "organization": archive.organization,
        "license": archive.capabilities.license,
        "license_url": archive.rights.archive.license_url,
        "attribution": archive.capabilities.attribution,
        "base_map": _install_asset(folder, page.base_map),
        "base_map_credit": page.base_map_credit,
        "view": page.view,
        "gazetteer": _install_asset(folder, page.gazetteer),
    }
    write_atomically(folder / ARCHIVE_DOCUMENT, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _install_asset(folder: Path, source: Path | None) -> str | None:
    """Address of a copy whose name contains a hash of the content, because browsers keep assets for a year."""
    if source is None:
        return None
    content = source.read_bytes()
    name = f"{source.stem}-{hashlib.sha256(content).hexdigest()[:12]}{source.suffix}"
    write_atomically(folder / "assets" / name, content)
    return f"/assets/{name}"
