"""The history of the index database's schema: one revision for each change of `index/schema.py` since 0001.

docs/operations.md tells how to write one. Tile indexes of collections are no part of it: each rebuild makes its own anew.
"""
