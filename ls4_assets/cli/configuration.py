"""Where a command gets its settings."""

import os

from ls4_assets.errors import ConfigurationError
from ls4_assets.settings import Settings, load_settings


def load_command_settings() -> Settings:
    """Settings of this environment or, when it has none, of the demo that runs from this checkout.

    The demo's settings are added to `os.environ`, so that everything the command opens uses them. Raises ConfigurationError.
    """
    if "LS4_DATABASE_URL" in os.environ or "LS4_CONFIG" in os.environ:
        return load_settings()
    from ls4_assets.local.state import CHECKOUT, choose_state_directory, explain_state_access

    state, _ = choose_state_directory(CHECKOUT)
    with explain_state_access(state.home):
        environment = state.load_environment()
    if not environment:
        raise ConfigurationError("No archive is configured and no demo is running; start `make demo`, or set LS4_CONFIG.")
    os.environ.update(environment)
    return load_settings()
