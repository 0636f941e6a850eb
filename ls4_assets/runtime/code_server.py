"""`python -m ls4_assets.runtime.code_server`: the `dagster api grpc` command, which can load its definitions again.

It takes the options of `dagster api grpc`. A new county gets its assets without a restart: the sensors ask for it
(``reloading.py``), and so does *Reload* in the Dagster UI. Dagster's webserver and daemon follow a new server ID within seconds.
`dagster code-server start` can reload too, but it is a second process of a hundred megabytes.
"""

import gc
import importlib
import logging
import threading
import uuid
from typing import Any

from dagster._cli import api
from dagster._grpc import server
from dagster._grpc.__generated__ import dagster_api_pb2

from ls4_assets import logs
from ls4_assets.runtime import reloading
from ls4_assets.runtime.run_process import DEFINITIONS


class ReloadingServer(server.DagsterApiServer):
    """Dagster's server, with definitions that are replaced as a whole: a request sees the old ones or the new ones."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._location_name = options["location_name"]
        reloading.serve_requests(self._start_reload)

    def ReloadCode(  # noqa: N802  # the name of the call in Dagster's protocol
        self, _request: dagster_api_pb2.ReloadCodeRequest, _context: Any
    ) -> dagster_api_pb2.ReloadCodeReply:
        self._reload()
        return dagster_api_pb2.ReloadCodeReply()

    def _start_reload(self) -> None:
        # The ticks during a slow reload ask again.
        if not self._reload_lock.locked():
            threading.Thread(target=self._reload, name="reload", daemon=True).start()

    def _reload(self) -> None:
        """Build the definitions again; after an error the old ones stay."""
        with self._reload_lock:
            try:
                importlib.import_module(DEFINITIONS).forget()
                self._loaded_repositories = server.LoadedRepositories(
                    self._loadable_target_origin,
                    entry_point=self._entry_point,
                    container_image=self._container_image,
                    container_context=self._container_context,
                    code_location_name=self._location_name,
                )
                self._server_id = str(uuid.uuid4())
            except Exception as error:  # noqa: BLE001  # a server with old definitions is better than none
                logs.emit("definitions", logging.ERROR, state="not reloaded", reason=str(error))
            gc.collect()


def main() -> None:
    """Serve the definitions until the process is stopped."""
    # The command has no option for the class; it reads this name of the module when it starts.
    server.DagsterApiServer = ReloadingServer  # type: ignore[assignment, misc]
    api.grpc_command(auto_envvar_prefix="DAGSTER_API_GRPC")


if __name__ == "__main__":
    main()
