"""The read-only app of the Dagster UI, beside the full one in the same process: a second webserver would cost 190 MB.

It is what `dagster-webserver --read-only` serves: the UI disables every button, and the webserver rejects every mutation.
"""

from typing import Any

import dagster as dg
from dagster._core.workspace.context import IWorkspaceProcessContext


class ReadOnlyContext(IWorkspaceProcessContext[Any]):
    """The code locations of another context, for requests that may change nothing."""

    def __init__(self, full: IWorkspaceProcessContext[Any]) -> None:
        self._full = full

    def create_request_context(self, source: Any | None = None) -> Any:
        request = self._full.create_request_context(source)
        request._read_only = True
        return request

    @property
    def version(self) -> str:
        return self._full.version

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._full.instance

    def reload_code_location(self, name: str) -> None:
        raise NotImplementedError

    def reload_workspace(self) -> None:
        raise NotImplementedError

    def refresh_workspace(self) -> None:
        raise NotImplementedError
