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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
_INSTALL_LINE = re.compile(r"^Inst (\S+) \[(\S+)\] \((\S+) (.*?)\[")


@dataclass(frozen=True)
class Advisory:
    """A published vulnerability: versions from `introduced` up to, but without, `fixed` have it. None: all later versions."""

    id: str
    package: str
    introduced: str
    fixed: str | None
    summary: str

    def affects(self, version: str) -> bool:
        return Version(self.introduced) <= Version(version) and (self.fixed is None or Version(version) < Version(self.fixed))


def read_advisories(path: Path = ADVISORIES) -> tuple[date, list[Advisory]]:
    """The day of the record, and its advisories."""
    record = json.loads(path.read_text())
    return date.fromisoformat(record["recorded"]), [Advisory(**advisory) for advisory in record["advisories"]]


def locked_versions(path: Path = LOCK) -> dict[str, str]:
    """Name and version of each package in uv.lock, without this project."""
    packages = tomllib.loads(path.read_text())["package"]
    return {package["name"]: package["version"] for package in packages if "registry" in package["source"]}


def find_vulnerable(versions: Mapping[str, str], advisories: Iterable[Advisory]) -> list[str]:
    """One sentence for each advisory that affects a locked version."""
    return [
        f"{entry.package} {versions[entry.package]} has {entry.id} ({entry.summary}). "
        + (f"Lock {entry.fixed} or later." if entry.fixed else "No version fixes it. Replace the package.")
        for entry in advisories
        if entry.package in versions and entry.affects(versions[entry.package])
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
    command = ["apt-get", "--just-print", "upgrade"]  # changes nothing and needs no root
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
    ).stdout


def fetch_advisories(versions: Mapping[str, str]) -> Iterator[Advisory]:
    """The advisories of osv.dev for these versions. Raises httpx.HTTPError without a connection."""
    names = sorted(versions)
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": versions[name]} for name in names]
    results = _call(f"{_OSV}/querybatch", {"queries": queries})["results"]
    for name, result in zip(names, results, strict=True):
        for found in result.get("vulns", []):
            yield from _parse_osv(name, _call(f"{_OSV}/vulns/{found['id']}"))


def _parse_osv(name: str, vulnerability: Mapping[str, object]) -> Iterator[Advisory]:
    """The version ranges of one package in a record of the OSV schema (https://ossf.github.io/osv-schema/)."""
    affected = vulnerability["affected"]
    assert isinstance(affected, list)
    summary = str(vulnerability.get("summary") or "no summary")
    for entry in affected:
        if entry["package"]["name"].lower() != name:
            continue
        for versions in entry.get("ranges", []):
            if versions["type"] == "ECOSYSTEM":
                bounds = {key: value for event in versions["events"] for key, value in event.items()}
                yield Advisory(str(vulnerability["id"]), name, bounds.get("introduced", "0"), bounds.get("fixed"), summary)


def _call(url: str, body: object = None) -> Any:
    response = httpx.post(url, json=body, timeout=60) if body is not None else httpx.get(url, timeout=60)
    return response.raise_for_status().json()


def record_advisories(advisories: Iterable[Advisory], today: date, path: Path = ADVISORIES) -> None:
    """Add the advisories to the record: those of versions that are no longer locked keep a downgrade from passing."""
    known = {(entry.id, entry.package, entry.introduced): entry for entry in (*read_advisories(path)[1], *advisories)}
    entries = [asdict(known[key]) for key in sorted(known)]
    path.write_text(json.dumps({"recorded": today.isoformat(), "advisories": entries}, indent=1, ensure_ascii=False) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Print what is known; returns 1 when a locked package is vulnerable, or with --strict when an update is pending."""
    parser = argparse.ArgumentParser(prog="python -m deploy.audit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--refresh", action="store_true", help="record the advisories of osv.dev first; needs a connection")
    parser.add_argument("--strict", action="store_true", help="fail also for pending security updates of Debian packages")
    options = parser.parse_args(arguments)
    versions = locked_versions()
    if options.refresh:
        record_advisories(fetch_advisories(versions), datetime.now(UTC).date())
    recorded, advisories = read_advisories()
    vulnerable, updates = find_vulnerable(versions, advisories), find_security_updates(simulate_upgrade())
    click.echo(f"audit: {len(versions)} locked packages, {len(advisories)} advisories recorded on {recorded}.")
    for sentence in (*vulnerable, *updates):
        click.echo(f"audit: {sentence}")
    return 1 if vulnerable or (options.strict and updates) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
