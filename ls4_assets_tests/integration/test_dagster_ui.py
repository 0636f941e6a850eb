"""The real Dagster webserver, started as every deployment starts it, executes only what its own page or a program sends."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from ls4_assets.local.services import returns_ok
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.platform import CHECKOUT

SCHEDULE = '{repositoryName: "a", repositoryLocationName: "b", scheduleName: "c"}'
LAUNCH = {"query": f"mutation {{ startSchedule(scheduleSelector: {SCHEDULE}) {{ __typename }} }}"}
MUTATION = {"query": "mutation { setNuxSeen }"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a webserver without code locations, with a password."""
    home: Path = tmp_path_factory.mktemp("dagster")
    environment = {
        "PATH": os.defpath,
        "DAGSTER_HOME": str(home),
        "LS4_STORAGE": str(home),
        "LS4_DATABASE_URL": "postgresql+psycopg2://ls4@db.invalid/ls4",
        "LS4_PUBLIC_URL": "http://localhost",
        "LS4_MAP_URL": "http://localhost",
        "LS4_DAGSTER_PASSWORD": "secret",
    }
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    port = find_free_port()
    program = [
        sys.executable,
        "-m",
        "ls4_assets.operations.webserver",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--empty-workspace",
    ]
    with subprocess.Popen(program, env=environment, cwd=CHECKOUT) as process:
        try:
            for _ in range(900):
                if returns_ok(f"http://127.0.0.1:{port}/server_info"):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def test_mutation_needs_a_post_of_this_site(address: str) -> None:
    """`curl -g "$UI/graphql?query=mutation{setNuxSeen}"` was executed, under any host name and origin."""
    with httpx.Client(base_url=address, auth=("operator", "secret"), trust_env=False) as client:
        assert client.get("/graphql", params=MUTATION).status_code == 405
        assert client.post("/graphql", params=MUTATION).status_code == 415
        assert client.post("/graphql", json=MUTATION, headers={"origin": "https://evil.example"}).status_code == 403
        assert client.post("/graphql", json=MUTATION, headers={"host": "evil.example"}).status_code == 403
        assert client.post("/graphql", json=MUTATION).json() == {"data": {"setNuxSeen": True}}


def test_data_and_scripts_are_compressed(address: str) -> None:
    """The list of the assets of all counties was 2.3 MB, the scripts 3.5 MB, at each first visit."""
    query = {"query": "{ __schema { types { name description fields { name description } } } }"}
    with httpx.Client(base_url=address, auth=("operator", "secret"), trust_env=False) as client:
        for prefix in ("", "/read-only"):
            data = client.post(f"{prefix}/graphql", json=query)
            script = client.get(re.findall(r'src="([^"]+/chunks/[^"]+\.js)"', client.get(f"{prefix}/runs").text)[0])
            for response in (data, script):
                assert (response.status_code, response.headers["content-encoding"]) == (200, "gzip"), response.url
                assert 2 * response.num_bytes_downloaded < len(response.content)
            plain = client.post(f"{prefix}/graphql", json=query, headers={"accept-encoding": "identity"})
            assert "content-encoding" not in plain.headers and plain.content == data.content


def test_page_needs_the_password(address: str) -> None:
    with httpx.Client(base_url=address, trust_env=False) as client:
        assert client.get("/").status_code == 401
        page = client.get("/", auth=("operator", "secret"))
        assert (page.status_code, page.headers["x-frame-options"]) == (200, "DENY")


def test_everybody_reads_and_only_operators_change(address: str) -> None:
    """There was no read-only UI: who could see the runs could also start and delete them."""
    page = httpx.get(f"{address}/read-only/runs")
    assert (page.status_code, "/read-only" in page.text) == (200, True)
    permissions = {"query": "{ permissions { permission value } }"}
    everybody = httpx.post(f"{address}/read-only/graphql", json=permissions).json()["data"]["permissions"]
    assert {each["value"] for each in everybody} == {False}
    launched = httpx.post(f"{address}/read-only/graphql", json=LAUNCH).json()
    assert launched["data"]["startSchedule"]["__typename"] == "UnauthorizedError"
    assert httpx.post(f"{address}/graphql", json=permissions).status_code == 401
    operator = httpx.post(f"{address}/graphql", json=permissions, auth=("operator", "secret")).json()
    assert True in {each["value"] for each in operator["data"]["permissions"]}


@pytest.mark.parametrize("path", ["/read-only/../graphql", "/read-only-not/graphql", "/READ-ONLY/graphql"])
def test_no_path_gets_around_the_login(address: str, path: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    connection = HTTPConnection(host, int(port))
    connection.request("POST", path, body='{"query": "{ version }"}', headers={"content-type": "application/json"})
    assert connection.getresponse().status in (401, 404, 405)
