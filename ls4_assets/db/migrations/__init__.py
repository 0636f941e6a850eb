"""The revisions of the index database, one for each change of `db/schema.py` since 0001.

docs/how-to/operate.md explains how to write one. Tile indexes of collections are not included: each rebuild creates its own.
"""
