"""The configuration of an installation: what is wrong is named before anything is synthesised."""

from pathlib import Path

import pytest

from deploy.aws.config import Config, read_config
from ls4_assets.errors import ConfigurationError
from ls4_assets_tests.deploy.conftest import EXAMPLE


def test_the_example_is_valid_and_shows_every_section(example: Config) -> None:
    assert example.maps.least == 2
    text = EXAMPLE.read_text()
    assert [name for name in Config.model_fields if name not in text] == []


@pytest.mark.parametrize(
    ("instead_of", "stands", "told"),
    [
        ("cpu = 2048", "cpu = 2000", "runs: .*Fargate has no 2000 units"),
        ("memory = 8192", "memory = 2048", "runs: .*Fargate has no 2048 units with 2048 MB"),
        ('postgres = "16"', 'postgres = "12"', "database.postgres"),
        ('"us-east-1b"]', '"us-west-2b"]', "zone us-west-2b is not in us-east-1"),
        ("least = 2", "least = 9", "least is more than most"),
        ('maps = "maps.example.org"', 'maps = "maps.example.com"', r"maps.example.com does not end with .example.org"),
        ("standby = true", "stanby = true", "database.stanby"),
        ("# batch_size = 50", "batch_sise = 50", "batch_sise: no setting"),
        ("# batch_size = 50", 'storage = "s3://another"', "storage: no setting that is yours"),
        ('# host = "photographs', 'host = "photographs', "host and certificate_arn go together"),
        ("endpoint_zones = 2", "endpoint_zones = 3", "endpoint_zones is more than the 2 zones"),
        ("region =", "region", "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_by_name(tmp_path: Path, instead_of: str, stands: str, told: str) -> None:
    text = EXAMPLE.read_text()
    assert instead_of in text
    file = tmp_path / "mine.toml"
    file.write_text(text.replace(instead_of, stands, 1))
    with pytest.raises(ConfigurationError, match=told):
        read_config(file)
