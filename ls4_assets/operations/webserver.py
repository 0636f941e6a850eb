"""`python -m ls4_assets.operations.webserver`: the Dagster UI, and the monitor in a thread of the same process.

It takes the options of `dagster-webserver`. The monitor runs if LS4_MONITOR_DIR names its folder.
"""

import time

from dagster_postgres.utils import DagsterPostgresException

from ls4_assets.operations.health.monitor import start_monitor
from ls4_assets.runtime import webserver
from ls4_assets.runtime.instance import open_instance
from ls4_assets.settings import load_settings

_RETRY_SECONDS = 5.0


def main() -> None:
    """Run the webserver until it is stopped."""
    settings = load_settings()
    if settings.monitor_dir:
        start_monitor(settings, settings.monitor_dir)
        # It reports that the database is down, which it could not do if this process exited.
        _wait_for_database()
    webserver.run()


def _wait_for_database() -> None:
    while True:
        try:
            open_instance().dispose()
        except DagsterPostgresException:
            time.sleep(_RETRY_SECONDS)
        else:
            return


if __name__ == "__main__":
    main()
