"""ls4: the platform that turns dropped aerial photograph scans into COGs, tile indexes and maps.

Storage, database and queue clients are in the top-level package `resources`, sensors and schedules in `sensors`, and map serving
in `mapserver`.
"""
