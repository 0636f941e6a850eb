"""The revisions of the index database, one for each change of `db/schema.py` since 0001.

Columns of the collections' tile indexes are in `db/tile_index_columns.py`.
"""
