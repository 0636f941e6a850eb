"""titiler over MosaicJSON, as its manual sets it up. Runs in the interpreter that has it, so nothing of ls4 is imported.

`python serve_titiler.py <features.json> <mosaic.json>` makes a MosaicJSON of GeoJSON features whose `path` is the COG's; uvicorn
runs `app`.
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


@app.get("/health")
def health() -> bool:
    return True


if __name__ == "__main__":
    features, out = map(Path, sys.argv[1:])
    given = json.loads(features.read_text())
    made = MosaicJSON.from_features(given["features"], given["minzoom"], given["maxzoom"])
    out.write_text(made.model_dump_json(exclude_none=True))
