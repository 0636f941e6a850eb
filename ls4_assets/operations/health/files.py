"""Writing the files of the monitor."""

from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Replace a file that others may read, in one step: a reader gets the old content or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    temporary.replace(path)
