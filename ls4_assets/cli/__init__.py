"""The `ls4` commands."""
