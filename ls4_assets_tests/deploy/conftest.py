"""The stacks as the CDK synthesizes them, once per session, without an AWS account and without a network."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.aws.config import Config, MountConfig, read_config
from ls4_assets_tests.platform import CHECKOUT

EXAMPLE = CHECKOUT / "deploy" / "example.toml"


@dataclass(frozen=True)
class Template:
    """The template of one stack."""

    folder: Path
    name: str
    content: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.template.json"

    @property
    def resources(self) -> Mapping[str, Any]:
        return self.content["Resources"]  # type: ignore[no-any-return]

    def of_type(self, resource_type: str) -> dict[str, Any]:
        """The properties of all resources of a type, by logical id."""
        return {
            name: resource.get("Properties", {}) for name, resource in self.resources.items() if resource["Type"] == resource_type
        }


@dataclass(frozen=True)
class Stacks:
    """Both templates of an installation."""

    base: Template
    platform: Template

    def __iter__(self) -> Iterator[Template]:
        return iter((self.base, self.platform))


def require_cdk() -> None:
    """Skip the tests where the stacks cannot be synthesized."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed: `deploy/install.sh tests` installs it (package nodejs)", allow_module_level=True)
    pytest.importorskip("aws_cdk", reason="the CDK is not installed: `uv sync --group deploy` installs it")
    for kind in ("UNTESTED", "DEPRECATED", "END_OF_LIFE"):
        os.environ.setdefault(f"JSII_SILENCE_WARNING_{kind}_NODE_VERSION", "1")


def synthesize(config: Config, folder: Path, nag: bool = False) -> Stacks:
    """Write the templates into `folder`; with `nag`, also the findings of cdk-nag into validation-report.json."""
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
    return synthesize(example, tmp_path_factory.mktemp("stacks") / "cdk.out")


@pytest.fixture(scope="session")
def mounted_stacks(example: Config, tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    """The variant with EC2 instances that mount the bucket."""
    require_cdk()
    config = example.model_copy(update={"mount": MountConfig(ami="ami-0123456789abcdef0")})
    return synthesize(config, tmp_path_factory.mktemp("mounted") / "cdk.out")
