"""The stacks as the CDK synthesises them: once a session, without an account and without a network."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.aws.config import Config, Mount, read_config
from ls4_assets_tests.platform import CHECKOUT

EXAMPLE = CHECKOUT / "deploy" / "example.toml"


@dataclass(frozen=True)
class Template:
    """One stack's template."""

    folder: Path
    name: str
    content: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.template.json"

    @property
    def resources(self) -> Mapping[str, Any]:
        return self.content["Resources"]  # type: ignore[no-any-return]

    def of_type(self, kind: str) -> dict[str, Any]:
        """Properties by logical id."""
        return {name: each.get("Properties", {}) for name, each in self.resources.items() if each["Type"] == kind}


@dataclass(frozen=True)
class Stacks:
    """Both of an installation."""

    base: Template
    platform: Template

    def __iter__(self) -> Any:
        return iter((self.base, self.platform))


def require_cdk() -> None:
    """Skips where the stacks cannot be synthesised."""
    if shutil.which("node") is None:
        pytest.skip("there is no Node here: `deploy/install.sh tests` installs it (package nodejs)", allow_module_level=True)
    pytest.importorskip("aws_cdk", reason="the CDK is not installed here: `uv sync --group deploy` brings it")
    for kind in ("UNTESTED", "DEPRECATED", "END_OF_LIFE"):
        os.environ.setdefault(f"JSII_SILENCE_WARNING_{kind}_NODE_VERSION", "1")


def synthesised(config: Config, folder: Path, nag: bool = False) -> Stacks:
    """With `nag`, its findings stand in validation-report.json too."""
    from deploy.aws.app import build_app

    app = build_app(config, str(folder))
    if nag:
        from aws_cdk import Validations
        from cdk_nag import AwsSolutionsChecks

        Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    app.synth()

    def read(name: str) -> Template:
        return Template(folder, name, json.loads((folder / f"{name}.template.json").read_text()))

    return Stacks(read("ls4-base"), read("ls4-platform"))


@pytest.fixture(scope="session")
def example() -> Config:
    return read_config(EXAMPLE)


@pytest.fixture(scope="session")
def stacks(example: Config, tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    require_cdk()
    return synthesised(example, tmp_path_factory.mktemp("stacks") / "cdk.out")


@pytest.fixture(scope="session")
def mounted_stacks(example: Config, tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    """The variant in which servers of our own mount the bucket."""
    require_cdk()
    config = example.model_copy(update={"mount": Mount(ami="ami-0123456789abcdef0")})
    return synthesised(config, tmp_path_factory.mktemp("mounted") / "cdk.out")
