"""What Postgres holds: the truth about sources and frames, and each collection's tile index."""
