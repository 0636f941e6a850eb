"""The audit names each known vulnerability of the lock file and each pending security update, without a connection."""

from datetime import date
from pathlib import Path

import pytest

from deploy import audit
from deploy.audit import (
    Advisory,
    find_security_updates,
    find_vulnerable,
    locked_versions,
    parse_osv,
    read_advisories,
    record_advisories,
)
from ls4_assets_tests.platform import CHECKOUT

SIMULATION = """\
NOTE: This is only a simulation!
Inst base-files [12.4+deb12u11] (12.4+deb12u15 Debian:12.15/oldstable [amd64])
Inst libgcrypt20 [1.10.1-3] (1.10.1-3+deb12u1 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64])
Inst nginx-light [1.22.1-9] (1.22.1-9+deb12u11 Debian-Security:12/oldstable-security [amd64]) []
Inst nginx-common [1.24.0-2ubuntu7] (1.24.0-2ubuntu7.5 Ubuntu:24.04/noble-updates, Ubuntu:24.04/noble-security [all])
Conf nginx-light (1.22.1-9+deb12u11 Debian-Security:12/oldstable-security [amd64])
"""


def test_no_locked_package_has_a_known_vulnerability() -> None:
    versions = locked_versions(CHECKOUT / "uv.lock")
    assert "jinja2" in dict(versions)
    assert find_vulnerable(versions, read_advisories()[1]) == []


@pytest.mark.parametrize(("version", "is_vulnerable"), [("0.38.9", False), ("0.39.0", True), ("0.49.0", True), ("0.49.1", False)])
def test_versions_of_the_range_are_vulnerable(version: str, is_vulnerable: bool) -> None:
    advisory = Advisory("GHSA-1", "starlette", "0.39.0", "0.49.1", "quadratic parsing")
    found = find_vulnerable([("starlette", version)], [advisory])
    assert found == ([f"starlette {version} has GHSA-1 (quadratic parsing). Lock 0.49.1 or later."] if is_vulnerable else [])


def test_vulnerability_without_a_fix_is_reported() -> None:
    (found,) = find_vulnerable([("x", "9")], [Advisory("GHSA-2", "x", "0", None, "bad")])
    assert "No version fixes it" in found


def test_each_version_of_a_package_is_audited() -> None:
    """uv.lock has two versions of numpy, one for each Python; only the newer one was audited."""
    advisory = Advisory("GHSA-1", "numpy", "0", "2.5", "old")
    assert len(find_vulnerable([("numpy", "2.4.6"), ("numpy", "2.5.5")], [advisory])) == 1
    names = [name for name, _ in locked_versions(CHECKOUT / "uv.lock")]
    assert len(names) > len(set(names))


def osv(**fields: object) -> dict[str, object]:
    package = {"package": {"name": "X", "ecosystem": "PyPI"}}
    return {"id": "GHSA-4", "summary": "bad", "affected": [package | fields]}


def ecosystem(*events: dict[str, str]) -> list[dict[str, object]]:
    return [{"type": "ECOSYSTEM", "events": list(events)}, {"type": "GIT", "events": [{"introduced": "0"}]}]


@pytest.mark.parametrize(
    ("vulnerability", "affected", "safe"),
    [
        (
            osv(ranges=ecosystem({"introduced": "0"}, {"fixed": "1.2"}, {"introduced": "2.0"}, {"fixed": "2.3"})),
            ("1.0", "2.1"),
            ("1.2", "2.3"),
        ),
        (osv(ranges=ecosystem({"introduced": "1.0"}, {"last_affected": "1.4"})), ("1.0", "1.4"), ("0.9", "1.5")),
        (osv(ranges=ecosystem({"introduced": "0"})), ("1.0", "99"), ()),
        (osv(versions=["1.0", "1.1"]), ("1.0",), ("1.2",)),
        (osv(ranges=ecosystem({"introduced": "0"})) | {"withdrawn": "2026-01-01T00:00:00Z"}, (), ("1.0",)),
    ],
    ids=["two ranges", "last affected", "without a fix", "list of versions", "withdrawn"],
)
def test_every_form_of_a_range_is_read(
    vulnerability: dict[str, object], affected: tuple[str, ...], safe: tuple[str, ...]
) -> None:
    """Of two ranges only the last one counted, and a record that lists versions counted for none."""
    advisories = parse_osv("x", "1.0", vulnerability)
    for version in (*affected, *safe):
        assert any(advisory.affects(version) for advisory in advisories) == (version in affected), version


def test_pending_security_updates_are_reported() -> None:
    assert find_security_updates(SIMULATION) == [
        "libgcrypt20 1.10.1-3 has a security update. Upgrade to 1.10.1-3+deb12u1.",
        "nginx-light 1.22.1-9 has a security update. Upgrade to 1.22.1-9+deb12u11.",
        "nginx-common 1.24.0-2ubuntu7 has a security update. Upgrade to 1.24.0-2ubuntu7.5.",
    ]


def test_refresh_keeps_earlier_advisories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade dropped the advisory that forced it, so a later downgrade passed."""
    path = tmp_path / "advisories.json"
    path.write_text('{"recorded": "2026-01-01", "advisories": []}')
    record_advisories([Advisory("GHSA-1", "a", "0", "2", "first")], date(2026, 1, 2), path)
    osv = {
        f"{audit._OSV}/querybatch": {"results": [{"vulns": [{"id": "GHSA-3"}]}, {}]},
        f"{audit._OSV}/vulns/GHSA-3": {
            "id": "GHSA-3",
            "summary": "second",
            "affected": [
                {
                    "package": {"name": "B", "ecosystem": "PyPI"},
                    "ranges": [
                        {"type": "ECOSYSTEM", "events": [{"introduced": "1"}, {"fixed": "1.5"}]},
                        {"type": "GIT", "events": [{"introduced": "0"}]},
                    ],
                },
                {"package": {"name": "other", "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": []}]},
            ],
        },
    }
    monkeypatch.setattr(audit, "_call", lambda url, body=None: osv[url])
    record_advisories(list(audit.fetch_advisories([("b", "1.2"), ("c", "3")])), date(2026, 1, 3), path)
    assert read_advisories(path) == (
        date(2026, 1, 3),
        [Advisory("GHSA-1", "a", "0", "2", "first"), Advisory("GHSA-3", "b", "1", "1.5", "second")],
    )
