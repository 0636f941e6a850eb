"""The `dagster-webserver` command with the request guard around its pages.

Which requests pass is decided in ``request_guard.py``; ``operations/webserver.py`` starts it.
"""

from typing import Any
from urllib.parse import urlsplit

from dagster_webserver import cli
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.middleware.gzip import GZipMiddleware

from ls4_assets.runtime.partition_page import with_reasons
from ls4_assets.runtime.read_only import ReadOnlyContext
from ls4_assets.runtime.request_guard import READ_ONLY_PATH, RequestGuard
from ls4_assets.settings import load_settings

# 2 MB of JSON in 20 ms.
_COMPRESSION_LEVEL = 4


def create_guarded_app(context: Any, path_prefix: str = "", *arguments: Any, **options: Any) -> RequestGuard:
    """The two apps of the Dagster UI; addresses and password come from the settings. Raises ConfigurationError."""
    settings = load_settings()
    password = settings.dagster_password.get_secret_value() if settings.dagster_password else None
    host = urlsplit(settings.dagster_url).hostname
    full = _compressed(create_app_from_workspace_process_context(context, path_prefix, *arguments, **options))
    read_only_path = path_prefix + READ_ONLY_PATH
    read_only = create_app_from_workspace_process_context(ReadOnlyContext(context), read_only_path, *arguments, **options)
    return RequestGuard(full, {host} if host else (), password, read_only={read_only_path: _compressed(read_only)})


def _compressed(app: Any) -> Any:
    """The app with compressed responses: scripts are 3.5 MB, and the list of assets of 254 shards is 2 MB."""
    return GZipMiddleware(with_reasons(app), compresslevel=_COMPRESSION_LEVEL)


def run() -> None:
    """Run the webserver, with the options on the command line, until it is stopped."""
    # The command has no option for middleware; it reads this name of its module when it starts.
    cli.create_app_from_workspace_process_context = create_guarded_app  # type: ignore[assignment, attr-defined]
    cli.cli(auto_envvar_prefix="DAGSTER_WEBSERVER")
