"""Ingest: from files in the bucket to queued sources and batches for runs. `ls4_assets.processing` makes the frames."""
