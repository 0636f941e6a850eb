"""The entry point for the CDK command line; `LS4_DEPLOY` is the path of the configuration (see deploy/example.toml)."""

import os
import sys
from pathlib import Path

from deploy.aws.app import build_app
from deploy.aws.config import read_config
from ls4_assets.errors import ConfigurationError


def main() -> None:
    """Write the templates into cdk.out."""
    file = os.environ.get("LS4_DEPLOY")
    if not file:
        sys.exit("LS4_DEPLOY is not set: copy deploy/example.toml, fill in its values and set LS4_DEPLOY to its path.")
    try:
        config = read_config(Path(file))
    except ConfigurationError as error:
        sys.exit(str(error))
    build_app(config).synth()


if __name__ == "__main__":
    main()
