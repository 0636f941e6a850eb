"""Pure names and rules of the archive."""
