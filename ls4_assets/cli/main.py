"""The `ls4` command: the group that all commands belong to, and how it reports errors.

The commands themselves are in the other modules of this package. Each one imports the package that does its work inside the
command function, so that `ls4 --help` starts fast.
"""

import os
import sys
from typing import Any

import click

from ls4_assets.cli.archive import adopt, reconcile
from ls4_assets.cli.check import check
from ls4_assets.cli.configuration import explain_database_error
from ls4_assets.cli.db import db
from ls4_assets.cli.demo import demo
from ls4_assets.cli.doctor import doctor
from ls4_assets.cli.ingest import confirm_deletion, ingest, retry, scan_inventory
from ls4_assets.cli.logs import logs
from ls4_assets.cli.open import open_
from ls4_assets.cli.rematerialize import rematerialize
from ls4_assets.cli.status import status
from ls4_assets.domain.printable import printable
from ls4_assets.errors import Ls4Error


class CommandGroup(click.Group):
    """A group that reports a wrong input or setting as one sentence, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, without colors if NO_COLOR is set.

        Raises click.ClickException for an Ls4Error and for a database that does not answer."""
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except Ls4Error as error:
            # The text may contain names of files.
            raise click.ClickException("\n".join(map(printable, str(error).splitlines()))) from None
        except Exception as error:
            # Its import takes long for a completion in the shell, and a command without a database needs none.
            alchemy = sys.modules.get("sqlalchemy.exc")
            if alchemy and isinstance(error, alchemy.OperationalError):
                raise click.ClickException(explain_database_error(error)) from None
            raise


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ls4", message="%(prog)s %(version)s")
def main() -> None:
    """Turn scanned aerial photographs, dropped in a folder or bucket, into maps."""


for _command in (
    adopt,
    check,
    confirm_deletion,
    db,
    demo,
    doctor,
    ingest,
    logs,
    open_,
    reconcile,
    rematerialize,
    retry,
    scan_inventory,
    status,
):
    main.add_command(_command)
