"""Where a command gets its settings, and whether its database answers."""

import os
from typing import TYPE_CHECKING

from ls4_assets.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.exc import OperationalError

    from ls4_assets.settings import Settings

# libpq's minimum.
_CONNECT_SECONDS = 2


def load_command_settings() -> "Settings":
    """Settings of this environment or, when it has none, of the demo that runs from this checkout.

    The demo's settings are added to `os.environ`, so that everything the command opens uses them. Raises ConfigurationError.
    """
    from ls4_assets.settings import load_settings

    if "LS4_DATABASE_URL" in os.environ or "LS4_CONFIG" in os.environ:
        return load_settings()
    from ls4_assets.local.state import CHECKOUT, choose_state_directory, explain_state_access

    state, _ = choose_state_directory(CHECKOUT)
    with explain_state_access(state.home):
        environment = state.load_environment()
    if not environment:
        raise ConfigurationError(
            f"No archive is configured, and no demo was ever started with its state in {state.home}. Start `make demo`, set "
            "LS4_STATE to the state of a demo that runs, or set LS4_CONFIG."
        )
    os.environ.update(environment)
    return load_settings()


def load_archive_settings() -> "Settings":
    """The same, for a command that needs the archive's database, or Dagster's.

    Dagster's client retries for a long time, and the engine of the services is patient. Raises ConfigurationError within seconds.
    """
    settings = load_command_settings()
    urls = {"LS4_DATABASE_URL": settings.database_url.get_secret_value()}
    if dagster_url := os.environ.get("LS4_DAGSTER_DATABASE_URL"):
        urls["LS4_DAGSTER_DATABASE_URL"] = dagster_url
    for variable, url in urls.items():
        if reason := find_database_error(url):
            raise ConfigurationError(_explain(reason, variable))
    return settings


def find_database_error(url: str) -> str:
    """Why the database does not answer; empty if it does."""
    from sqlalchemy.exc import OperationalError

    from resources.open import open_database_once

    try:
        open_database_once(url, _CONNECT_SECONDS).connect().close()
    except OperationalError as error:
        return f"{_first_line(error)}{_explain_stopped_demo(url)}"
    return ""


def _explain_stopped_demo(url: str) -> str:
    """The folder of the demo that the database belongs to, if it does not run: another one may run with another LS4_STATE."""
    from ls4_assets.local.state import CHECKOUT, choose_state_directory, explain_state_access

    state, _ = choose_state_directory(CHECKOUT)
    with explain_state_access(state.home):
        is_stopped = url in state.load_environment().values() and not state.is_in_use()
    return f"; no demo runs with its state in {state.home}" if is_stopped else ""


def explain_database_error(error: "OperationalError") -> str:
    """One sentence, without statements and addresses of manuals."""
    return _explain(_first_line(error), "LS4_DATABASE_URL")


def _first_line(error: "OperationalError") -> str:
    return next(iter(str(error.orig).strip().splitlines()), "no reason given")


def _explain(reason: str, variable: str) -> str:
    return f"The database does not answer ({reason}). Start it (`make demo`), or correct {variable}."
