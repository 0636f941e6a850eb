"""`python -m ls4_assets.runtime.webserver`: the `dagster-webserver` command with the request guard around its pages.

It takes the options of `dagster-webserver`. Which requests pass is decided in ``request_guard.py``.
"""

from typing import Any
from urllib.parse import urlsplit

from dagster_webserver import cli
from dagster_webserver.app import create_app_from_workspace_process_context

from ls4_assets.runtime.request_guard import RequestGuard
from ls4_assets.settings import load_settings


def create_guarded_app(*arguments: Any, **options: Any) -> RequestGuard:
    """The app of the Dagster UI; its addresses and password come from the settings. Raises ConfigurationError."""
    settings = load_settings()
    password = settings.dagster_password.get_secret_value() if settings.dagster_password else None
    host = urlsplit(settings.dagster_url).hostname
    return RequestGuard(create_app_from_workspace_process_context(*arguments, **options), {host} if host else (), password)


def main() -> None:
    """Run the webserver until it is stopped."""
    # The command has no option for middleware; it reads this name of its module when it starts.
    cli.create_app_from_workspace_process_context = create_guarded_app  # type: ignore[assignment, attr-defined]
    cli.cli(auto_envvar_prefix="DAGSTER_WEBSERVER")


if __name__ == "__main__":
    main()
