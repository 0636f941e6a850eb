"""The code location of ls4 as the daemon and the webserver load it, for tests that ask what the Dagster UI asks."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget

from ls4_assets import definitions
from ls4_assets_tests.platform import Platform


@contextmanager
def loaded_workspace(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceProcessContext]:
    """Load the definitions of the platform, with all shards."""
    monkeypatch.setenv("LS4_STORAGE", platform.settings.storage)
    monkeypatch.setenv("LS4_DATABASE_URL", platform.settings.database_url.get_secret_value())
    monkeypatch.setenv("LS4_PUBLIC_URL", "http://maps.test/archive")
    monkeypatch.setenv("LS4_MAP_URL", "http://maps.test")
    monkeypatch.setattr(definitions, "_load_in_use", lambda settings: (settings.shards, ()))
    # Another test of this process may have loaded the definitions of fewer shards.
    definitions._load.cache_clear()
    origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="ls4_assets.definitions"))
    with create_test_daemon_workspace_context(InProcessWorkspaceLoadTarget(origin), platform.instance) as workspace:
        yield workspace
