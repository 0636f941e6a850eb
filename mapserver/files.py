"""Writing files that running processes read: each file is replaced in one step. What the files contain is decided in `config`."""

import errno
import os
import pwd
from pathlib import Path

_STATIC = Path(__file__).parent / "static"
_STAFF = Path(__file__).parent / "staff"


def write_atomically(path: Path, content: str | bytes, mode: int = 0o644, reader: pwd.struct_passwd | None = None) -> None:
    """Write a file so that readers get the old content or the new one; of the group of `reader` where it is given."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    if reader:
        os.chown(temporary, -1, reader.pw_gid)
    temporary.chmod(mode)
    temporary.replace(path)


def install_pages(folder: Path) -> None:
    """Copy the map page and the staff page to `folder`, where nginx's user can read them: a checkout may be in a private home."""
    folder.mkdir(exist_ok=True)
    # index.html comes last: it must not name an asset that is missing. Old assets stay for pages that are open in browsers.
    for source in sorted(_STATIC.rglob("*"), key=lambda path: path.name == "index.html"):
        target = folder / source.relative_to(_STATIC)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            write_atomically(target, source.read_bytes())
    (folder / _STAFF.name).mkdir(exist_ok=True)
    (font,) = (_STATIC / "assets").glob("*.woff2")
    for source in _STAFF.iterdir():
        write_atomically(folder / _STAFF.name / source.name, source.read_text().replace("%font%", f"/assets/{font.name}"))


def change_owner(path: Path, account: pwd.struct_passwd | None) -> None:
    """Give the file to `account`; None leaves its owner."""
    if account:
        os.chown(path, account.pw_uid, account.pw_gid)


def create_folder_if_writable(folder: Path) -> None:
    """Create the folder and its parents; do nothing on a read-only or forbidden file system. Other OSErrors are raised."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
