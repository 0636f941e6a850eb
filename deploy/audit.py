"""`python -m deploy.audit`: known vulnerabilities of the locked Python packages and of the Debian packages on this machine.

Works offline: the advisories are those recorded in `advisories.json`, and the Debian updates those in apt's package lists.
`--refresh` records the advisories that osv.dev has today for the locked versions; the scheduled workflow runs it. Which versions
are installed is decided in `uv.lock` and by Debian.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from shutil import which
from typing import Any

import click
import httpx
from packaging.version import Version

LOCK = Path("uv.lock")
ADVISORIES = Path(__file__).parent / "advisories.json"
# https://google.github.io/osv.dev/api/
_OSV = "https://api.osv.dev/v1"
_PACKAGE_LISTS = Path("/var/lib/apt/lists")
_INSTALL_LINE = re.compile(r"^Inst (\S+) \[(\S+)\] \((\S+) (.*?)\[")


@dataclass(frozen=True)
class Advisory:
    """A published vulnerability: versions from `introduced` up to, but without, `fixed` have it, or up to `last_affected`.

    With neither, all later versions have it.
    """

    id: str
    package: str
    introduced: str
    fixed: str | None
    summary: str
    last_affected: str | None = None

    def affects(self, version: str) -> bool:
        parsed = Version(version)
        if self.last_affected is not None and parsed > Version(self.last_affected):
            return False
        return Version(self.introduced) <= parsed and (self.fixed is None or parsed < Version(self.fixed))

    @property
    def advice(self) -> str:
        if self.fixed:
            return f"Lock {self.fixed} or later."
        return (
            f"Lock a version after {self.last_affected}." if self.last_affected else "No version fixes it. Replace the package."
        )


def read_advisories(path: Path = ADVISORIES) -> tuple[date, list[Advisory]]:
    """The day of the record, and its advisories."""
    record = json.loads(path.read_text())
    return date.fromisoformat(record["recorded"]), [Advisory(**({"fixed": None} | entry)) for entry in record["advisories"]]


def locked_versions(path: Path = LOCK) -> list[tuple[str, str]]:
    """Name and version of each package in uv.lock, without this project. A package may have a version for each Python."""
    packages = tomllib.loads(path.read_text())["package"]
    return [(package["name"], package["version"]) for package in packages if "registry" in package["source"]]


def find_vulnerable(versions: Iterable[tuple[str, str]], advisories: Iterable[Advisory]) -> list[str]:
    """One sentence for each advisory that affects a locked version."""
    by_package = defaultdict(list)
    for advisory in advisories:
        by_package[advisory.package].append(advisory)
    return [
        f"{name} {version} has {advisory.id} ({advisory.summary}). {advisory.advice}"
        for name, version in versions
        for advisory in by_package[name]
        if advisory.affects(version)
    ]


def find_security_updates(simulation: str) -> list[str]:
    """One sentence for each pending security update in the output of `apt-get --just-print upgrade`."""
    lines = filter(None, map(_INSTALL_LINE.match, simulation.splitlines()))
    return [
        f"{name} {installed} has a security update. Upgrade to {update}."
        for name, installed, update, origin in (line.groups() for line in lines)
        if "security" in origin.lower()
    ]


def simulate_upgrade() -> str:
    """What apt would upgrade, from its package lists; empty on a system without apt."""
    if not which("apt-get"):
        return ""
    if not any(_PACKAGE_LISTS.glob("*_Packages*")):
        click.echo("audit: apt has no package lists, so pending updates are unknown. Run apt-get update.")
    command = ["apt-get", "--just-print", "--with-new-pkgs", "upgrade"]  # changes nothing and needs no root
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
    ).stdout


def fetch_advisories(versions: Sequence[tuple[str, str]]) -> Iterator[Advisory]:
    """The advisories of osv.dev for these versions. Raises httpx.HTTPError without a connection."""
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in versions]
    results = _call(f"{_OSV}/querybatch", {"queries": queries})["results"]
    for (name, version), result in zip(versions, results, strict=True):
        for found in result.get("vulns", []):
            yield from parse_osv(name, version, _call(f"{_OSV}/vulns/{found['id']}"))


def parse_osv(name: str, version: str, vulnerability: Mapping[str, Any]) -> list[Advisory]:
    """The version ranges of one package in a record of the OSV schema (https://ossf.github.io/osv-schema/).

    `version` is one that the record affects: without ranges, which versions it lists is reduced to this one.
    """
    if "withdrawn" in vulnerability:
        return []
    identifier, summary = str(vulnerability["id"]), str(vulnerability.get("summary") or "no summary")
    entries = [entry for entry in vulnerability["affected"] if entry["package"]["name"].lower() == name]
    events = [
        event for entry in entries for span in entry.get("ranges", []) if span["type"] == "ECOSYSTEM" for event in span["events"]
    ]
    advisories: list[Advisory] = []
    for event in events:
        if "introduced" in event:
            advisories.append(Advisory(identifier, name, event["introduced"], None, summary))
        elif advisories:
            end = {key: event[key] for key in ("fixed", "last_affected") if key in event}
            advisories[-1] = replace(advisories[-1], **end)
    return advisories or [Advisory(identifier, name, version, None, summary, last_affected=version)]


def _call(url: str, body: object = None) -> Any:
    response = httpx.post(url, json=body, timeout=60) if body is not None else httpx.get(url, timeout=60)
    return response.raise_for_status().json()


def record_advisories(advisories: Sequence[Advisory], today: date, path: Path = ADVISORIES) -> None:
    """Add the advisories to the record. Those of versions that are no longer locked stay, so that a downgrade does not pass."""
    renewed = {(entry.id, entry.package) for entry in advisories}
    former = [entry for entry in read_advisories(path)[1] if (entry.id, entry.package) not in renewed]
    ordered = sorted({*former, *advisories}, key=lambda entry: (entry.id, entry.package, entry.introduced))
    entries = [{key: value for key, value in asdict(entry).items() if value is not None} for entry in ordered]
    path.write_text(json.dumps({"recorded": today.isoformat(), "advisories": entries}, indent=1, ensure_ascii=False) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Print what is known; returns 1 when a locked package is vulnerable, or with --strict when an update is pending."""
    parser = argparse.ArgumentParser(prog="python -m deploy.audit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--refresh", action="store_true", help="record the advisories of osv.dev first; needs a connection")
    parser.add_argument("--strict", action="store_true", help="fail also for pending security updates of Debian packages")
    options = parser.parse_args(arguments)
    versions = locked_versions()
    if options.refresh:
        record_advisories(list(fetch_advisories(versions)), datetime.now(UTC).date())
    recorded, advisories = read_advisories()
    vulnerable, updates = find_vulnerable(versions, advisories), find_security_updates(simulate_upgrade())
    click.echo(f"audit: {len(versions)} locked packages, {len(advisories)} advisories recorded on {recorded}.")
    for sentence in (*vulnerable, *updates):
        click.echo(f"audit: {sentence}")
    return 1 if vulnerable or (options.strict and updates) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
