"""The request guard passes what a person or a program of this site sends to the Dagster UI, and nothing else."""

from base64 import b64encode
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from ls4_assets.runtime.request_guard import RequestGuard

UI = "https://dagster.example.org"
MUTATION = {"query": "mutation { setNuxSeen }"}


async def answer(request: Request) -> Response:
    return PlainTextResponse("the webserver")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("the webserver")
    await websocket.close()


APP = Starlette(
    routes=[WebSocketRoute("/graphql", socket), Route("/{path:path}", answer, methods=["GET", "HEAD", "POST", "PUT", "DELETE"])]
)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(RequestGuard(APP, {"Dagster.example.org"}), base_url=UI) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/assets/Travis/cog", "/graphql", "/runs/1?tab=logs"])
def test_pages_are_served_and_cannot_be_framed(client: TestClient, path: str) -> None:
    """A page of another site could lay the UI under its own buttons."""
    response = client.get(path, headers={"sec-fetch-site": "cross-site"})
    assert (response.status_code, response.headers["x-frame-options"]) == (200, "DENY")


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "same-origin", "origin": UI}], ids=["program", "page"])
def test_json_of_this_site_is_accepted(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/graphql", json=MUTATION, headers=headers).text == "the webserver"


@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "/prefix/graphql"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_mutation_by_get_is_rejected(client: TestClient, method: str, path: str) -> None:
    """An image of any page could start or delete runs: `<img src="http://127.0.0.1:3000/graphql?query=mutation...">`."""
    assert client.request(method, path, params=MUTATION).status_code == 405


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "application/graphql", None])
def test_post_without_json_is_rejected(client: TestClient, kind: str | None) -> None:
    """A form of any page can send these content types without asking the browser's permission."""
    headers = {"content-type": kind} if kind else {}
    assert client.post("/graphql", params=MUTATION, content="query=x", headers=headers).status_code == 415


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": ""},
        {"origin": f"{UI}:8443"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_call_of_another_site_is_rejected(client: TestClient, method: str, headers: dict[str, str]) -> None:
    response = client.request(method, "/report_asset_materialization/x", json={}, headers=headers)
    assert (response.status_code, "another site" in response.text) == (403, True)


@pytest.mark.parametrize("path", ["/", "/graphql"])
@pytest.mark.parametrize("host", ["evil.example", "dagster.example.org.evil.example", "", "10.0.0.1:3000"])
def test_other_host_names_are_rejected_with_advice(client: TestClient, path: str, host: str) -> None:
    """A name that an attacker points to this address (DNS rebinding) made its page the same site as the UI."""
    response = client.get(path, headers={"host": host})
    assert (response.status_code, "LS4_DAGSTER_URL" in response.text) == (403, True)


@pytest.mark.parametrize(
    "host", ["dagster.example.org", "DAGSTER.example.org:443", "localhost:3000", "127.0.0.1:3000", "[::1]:3000"]
)
def test_own_and_loopback_names_are_accepted(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


def test_health_check_needs_neither_host_nor_password() -> None:
    guarded = RequestGuard(APP, (), "secret")
    with TestClient(guarded, base_url="http://10.0.0.7:3000") as client:
        assert client.get("/server_info").status_code == 200
        assert client.post("/server_info", json={}).status_code == 403


def test_login_is_required_when_a_password_is_set() -> None:
    with TestClient(RequestGuard(APP, (), "sécret:1"), base_url="http://localhost") as client:
        for wrong in (
            None,
            "Bearer x",
            "Basic",
            "Basic !!",
            "Basic \xe9\xe9\xe9\xe9",
            f"Basic {b64encode(b'operator:other').decode()}",
        ):
            response = client.get("/", headers={"authorization": wrong.encode("latin-1")} if wrong else {})
            assert (response.status_code, response.headers["www-authenticate"][:5]) == (401, "Basic")
        right = b64encode("operator:sécret:1".encode()).decode()
        assert client.get("/", headers={"authorization": f"Basic {right}"}).status_code == 200


@pytest.mark.parametrize(("origin", "is_accepted"), [(UI, True), ("https://evil.example", False)])
def test_socket_of_another_site_is_rejected(client: TestClient, origin: str, is_accepted: bool) -> None:
    """Browsers open sockets to any site; a socket accepts mutations too."""
    try:
        with client.websocket_connect("/graphql", headers={"origin": origin, "host": "dagster.example.org"}) as connection:
            assert connection.receive_text() == "the webserver"
            assert is_accepted
    except WebSocketDisconnect:
        assert not is_accepted
