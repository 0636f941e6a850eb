"""Adopt finished COGs: those of lambda-s4, or those of ls4 after its database was lost. Nothing here processes pixels.

inventory: what is in the bucket; cog_header: whether the archive may serve a COG; records: the rows in Postgres; history: the
events in Dagster; legacy_table: the existing tile index; collection: all of these for one collection; archive: many collections
in parallel; messages: what the operator reads; run: `ls4 adopt`; stacking and restore: `ls4 db restore`.
"""
