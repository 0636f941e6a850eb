"""The command in deploy/cdk.json, run as the CDK command line runs it."""

import json
import os
import subprocess
from pathlib import Path

from ls4_assets_tests.deploy.conftest import EXAMPLE, require_cdk
from ls4_assets_tests.platform import CHECKOUT

require_cdk()
DEPLOY = CHECKOUT / "deploy"


def test_templates_are_written_where_the_command_line_reads_them(tmp_path: Path) -> None:
    """`cdk deploy` failed with `no such file ... ../cdk.out/manifest.json`: the templates were written outside the checkout."""
    configured = json.loads((DEPLOY / "cdk.json").read_text())
    assert (DEPLOY / configured["output"]).resolve() == CHECKOUT / "cdk.out", "the folder that git ignores"
    # The CDK passes the folder as in cdk.json, relative to deploy/. This test uses a temporary folder.
    output = os.path.relpath(tmp_path / "cdk.out", DEPLOY)
    environment = os.environ | {"CDK_OUTDIR": output, "LS4_DEPLOY": str(EXAMPLE)}
    subprocess.run(configured["app"], shell=True, cwd=DEPLOY, env=environment, check=True, timeout=300)  # noqa: S602  # as the CDK does
    manifest = json.loads((DEPLOY / output / "manifest.json").read_text())
    assert {"ls4-base", "ls4-platform"} <= set(manifest["artifacts"])
