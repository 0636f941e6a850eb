"""An ASGI wrapper that protects the Dagster UI from pages of other sites, and asks for a password when one is set.

The Dagster webserver executes mutations that arrive by GET, from any origin and under any host name, so a page in an operator's
browser could start or delete runs. Starting the webserver is in ``webserver.py``; who may reach its port is up to the deployment.
"""

import hmac
import json
from base64 import b64decode
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

USER = "operator"
# Below it is the UI for everybody, without login.
READ_ONLY_PATH = "/read-only"
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
# Health checks of load balancers name an IP address as host, and have no password. The answer is the versions of Dagster.
_PUBLIC_PATHS = frozenset({"/server_info"})
_SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class GuardResponse:
    """The answer to a request that does not reach the webserver."""

    status: HTTPStatus
    sentence: str


class RequestGuard:
    """Passes requests to `app` that a person or a program of this site sent; answers all others with a sentence.

    hosts: names under which the UI may be addressed, without ports. password: of the user `operator`; None: no login.
    read_only: apps below a path of their own that change nothing, so they need no login.
    """

    def __init__(
        self, app: App, hosts: Collection[str], password: str | None = None, read_only: Mapping[str, App] | None = None
    ) -> None:
        self._app, self._read_only = app, dict(read_only or {})
        self._hosts = frozenset(host.lower() for host in hosts) | LOOPBACK_HOSTS
        self._password = password

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif rejection := self.judge(scope):
            await _answer(rejection, scope, send)
        else:
            await self._app_of(scope)(scope, receive, _with_frame_options(send))

    def judge(self, scope: Message) -> GuardResponse | None:
        """The answer to a request that must not reach the webserver; None: it may."""
        if scope["path"] in _PUBLIC_PATHS and scope.get("method") in _SAFE_METHODS:
            return None
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        return (
            self._judge_host(headers)
            or self._judge_login(scope, headers)
            or self._judge_origin(scope, headers)
            or _judge_call(scope, headers)
        )

    def _app_of(self, scope: Message) -> App:
        path = scope["path"]
        return next((app for prefix, app in self._read_only.items() if f"{path}/".startswith(f"{prefix}/")), self._app)

    def _judge_host(self, headers: dict[str, str]) -> GuardResponse | None:
        """Another name that resolves to this address is DNS rebinding."""
        if _host_name(headers.get("host", "")) in self._hosts:
            return None
        return GuardResponse(
            HTTPStatus.FORBIDDEN,
            "The Dagster UI is not served under this host name. Set LS4_DAGSTER_URL to the address that you open.",
        )

    def _judge_login(self, scope: Message, headers: dict[str, str]) -> GuardResponse | None:
        if self._password is None or self._app_of(scope) is not self._app:
            return None
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        try:
            sent = b64decode(credentials, validate=True) if scheme.lower() == "basic" else b""
        except ValueError:  # not Base64, or not ASCII
            sent = b""
        if hmac.compare_digest(sent, f"{USER}:{self._password}".encode()):
            return None
        return GuardResponse(HTTPStatus.UNAUTHORIZED, f"Log in as {USER} with the password of LS4_DAGSTER_PASSWORD.")

    def _judge_origin(self, scope: Message, headers: dict[str, str]) -> GuardResponse | None:
        """A link of another site may open a page; its scripts, forms and sockets may change nothing."""
        if scope["type"] == "http" and scope["method"] in _SAFE_METHODS:
            return None
        origin = headers.get("origin")
        is_foreign = origin is not None and origin.partition("://")[2].lower() != headers["host"].lower()
        if is_foreign or headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return GuardResponse(HTTPStatus.FORBIDDEN, "A page of another site sent this request. Open the Dagster UI itself.")
        return None


def _judge_call(scope: Message, headers: dict[str, str]) -> GuardResponse | None:
    """A form or an image of any page can send GET, and POST with the content type of a form, but no JSON."""
    if scope["type"] == "websocket":
        return None
    if scope["method"] in _SAFE_METHODS:
        if scope["path"].rstrip("/").endswith("/graphql") and scope["query_string"]:
            return GuardResponse(HTTPStatus.METHOD_NOT_ALLOWED, "GraphQL is accepted by POST only. Send the query as JSON.")
        return None
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return GuardResponse(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Only JSON is accepted. Set the content type to application/json."
        )
    return None


def _host_name(host: str) -> str:
    """The host of a Host header, without the port; an IPv6 address keeps its brackets."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


async def _answer(rejection: GuardResponse, scope: Message, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": rejection.sentence[:120]})
        return
    headers = [(b"content-type", b"application/json")]
    if rejection.status is HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b'Basic realm="Dagster UI", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": int(rejection.status), "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": rejection.sentence}).encode()})


def _with_frame_options(send: Send) -> Send:
    """Add the header that keeps the UI out of frames of other pages, which would steal clicks."""

    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-frame-options", b"DENY")]}
        await send(message)

    return send_with_header
