"""Taking over finished COGs: those of lambda-s4, or of ls4 itself after its database was lost. No pixel is made anew here.

survey: what lies in the bucket; cog_header: whether a COG is one that the archive may serve; records: the rows in Postgres;
history: what Dagster is told; legacy_table: the tile index that is there already; collection: all of that for one collection;
archive: many collections, in parallel.
"""
