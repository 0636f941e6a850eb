"""The configuration of an installation: every wrong value is reported by name before anything is synthesized."""

from pathlib import Path

import pytest

from deploy.aws.config import Config, read_config
from ls4_assets.errors import ConfigurationError
from ls4_assets_tests.deploy.conftest import EXAMPLE


def test_example_is_valid_and_shows_every_section(example: Config) -> None:
    assert example.maps.min_tasks == 2
    text = EXAMPLE.read_text()
    assert [name for name in Config.model_fields if name not in text] == []


@pytest.mark.parametrize(
    ("original", "replacement", "message"),
    [
        ("cpu = 2048", "cpu = 2000", "runs: .*Fargate does not offer 2000 CPU units"),
        ("memory = 8192", "memory = 2048", "runs: .*Fargate does not offer 2048 CPU units with 2048 MB"),
        ('postgres = "16"', 'postgres = "12"', "database.postgres"),
        ('"us-east-1b"]', '"us-west-2b"]', "zone us-west-2b is not in us-east-1"),
        ("min_tasks = 2", "min_tasks = 9", "min_tasks is greater than max_tasks"),
        ('maps = "maps.example.org"', 'maps = "maps.example.com"', r"maps.example.com does not end with .example.org"),
        ("standby = true", "stanby = true", "database.stanby"),
        ("# batch_size = 50", "batch_sise = 50", "batch_sise: not a setting"),
        ("# batch_size = 50", 'storage = "s3://another"', "storage: not a setting that can be set here"),
        ('# host = "photographs', 'host = "photographs', "host and certificate_arn must be set together"),
        ("endpoint_zones = 2", "endpoint_zones = 3", "endpoint_zones is greater than the number of zones, 2"),
        ("region =", "region", "cannot be read"),
        ('# archive_file = "archive.toml"', 'archive_file = "none.toml"', "archive_file: .*none.toml cannot be read"),
        ("# batch_size = 50", 'archive_file = "/x.toml"', "archive_file: not a setting that can be set here"),
    ],
)
def test_wrong_value_is_reported_by_name(tmp_path: Path, original: str, replacement: str, message: str) -> None:
    text = EXAMPLE.read_text()
    assert original in text
    file = tmp_path / "mine.toml"
    file.write_text(text.replace(original, replacement, 1))
    with pytest.raises(ConfigurationError, match=message):
        read_config(file)
