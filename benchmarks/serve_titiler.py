"""titiler over MosaicJSON, set up as in its manual. It runs in titiler's own interpreter, so it imports nothing from ls4.

`python serve_titiler.py <features.json> <mosaic.json>` writes a MosaicJSON for GeoJSON features with the property `path` of a
COG; uvicorn runs `app`.
"""

import json
import sys
from pathlib import Path

from cogeo_mosaic.backends.file import FileBackend
from cogeo_mosaic.mosaic import MosaicJSON
from fastapi import FastAPI
from titiler.mosaic.factory import MosaicTilerFactory

app = FastAPI()
app.include_router(MosaicTilerFactory(backend=FileBackend, add_part=True, add_viewer=False).router)


@app.get("/health")  # type: ignore[untyped-decorator]  # mypy runs without FastAPI, which is installed in titiler's environment
def health() -> bool:
    return True


if __name__ == "__main__":
    features, out = map(Path, sys.argv[1:])
    document = json.loads(features.read_text())
    mosaic = MosaicJSON.from_features(document["features"], document["minzoom"], document["maxzoom"])
    out.write_text(mosaic.model_dump_json(exclude_none=True))
