"""From a georeferenced scan to deflate tif, overviews and COG: pure functions over local files.

`frame.process` does a frame; the other modules are its parts, in this order: `source` (may this file be a
frame?), `mask` (which pixels are photograph?), `deflate`, `overviews`, `cog`, `validate`, `footprint`,
`thumbnail`. Nothing here knows of Dagster, buckets or databases, and everything runs in a worker process, one
frame at a time.
"""
