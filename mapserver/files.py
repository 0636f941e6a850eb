"""Files for the serving processes, each written whole or not at all: a running worker may read it at this moment."""

import errno
import os
import pwd
from pathlib import Path

_STATIC = Path(__file__).parent / "static"
_STAFF = Path(__file__).parent / "staff"


def publish(path: Path, content: str | bytes, mode: int = 0o644, account: pwd.struct_passwd | None = None) -> None:
    """Write a file in one step, as the account's where one is given."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.chmod(mode)
    give(temporary, account)
    temporary.replace(path)


def publish_pages(folder: Path) -> None:
    """The landing page and the staff's, copied to where the user of nginx can read them: a checkout may lie in a closed home."""
    folder.mkdir(exist_ok=True)
    # The assets first: the page must not name a file that is not there yet. Older ones stay, for pages that are open.
    for part in sorted(_STATIC.rglob("*"), key=lambda path: path.name == "index.html"):
        copied = folder / part.relative_to(_STATIC)
        if part.is_dir():
            copied.mkdir(parents=True, exist_ok=True)
        else:
            publish(copied, part.read_bytes())
    (folder / _STAFF.name).mkdir(exist_ok=True)
    (font,) = (_STATIC / "assets").glob("*.woff2")
    for part in _STAFF.iterdir():
        publish(folder / _STAFF.name / part.name, part.read_text().replace("%font%", f"/assets/{font.name}"))


def give(path: Path, account: pwd.struct_passwd | None) -> None:
    if account:
        os.chown(path, account.pw_uid, account.pw_gid)


def make_if_allowed(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
