"""Pure rules of the archive: names and keys, links, film types, frame profiles, and the regions of shards.

Nothing here opens a file of the archive, a database or a connection. Pixels are in `raster`, tables in `db`, and settings that
choose among these rules in `ls4_assets.settings`.
"""
