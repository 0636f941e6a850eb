"""What a browser transfers and waits for on pages of the Dagster UI, measured in headless Chromium.

`data` are the responses to GraphQL queries, which grow with the archive; `static` are scripts, styles, fonts and the page itself,
which the browser keeps. Bytes are those on the network: compressed, with headers. A page is complete when no request has been
under way for half a second. Each figure is the median of three browsers with empty caches.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import CDPSession, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
_ROUNDS = 3
_QUIET_SECONDS = 0.5
_TIMEOUT_SECONDS = 120.0


@dataclass
class Traffic:
    """The requests of one page. Times are monotonic seconds of this process."""

    bytes: dict[str, int] = field(default_factory=lambda: {"data": 0, "static": 0})
    changed_at: float = 0.0
    _open: dict[str, str] = field(default_factory=dict)

    def attach(self, session: CDPSession) -> None:
        session.on("Network.requestWillBeSent", self._start)
        session.on("Network.loadingFinished", self._finish)
        session.on("Network.loadingFailed", self._finish)
        session.send("Network.enable")

    def measure(self, page: Page, act: Callable[[], object]) -> dict[str, float]:
        """Seconds and bytes from `act` until the page is complete."""
        self.bytes = {"data": 0, "static": 0}
        started = self.changed_at = time.monotonic()
        act()
        # Chromium does not report the end of the scripts of workers.
        while "data" in self._open.values() or time.monotonic() - self.changed_at < _QUIET_SECONDS:
            page.wait_for_timeout(20)
            assert time.monotonic() - started < _TIMEOUT_SECONDS, f"{page.url} is not complete: {self._open}"
        return {"s": self.changed_at - started, **{f"{kind}_bytes": count for kind, count in self.bytes.items()}}

    def _start(self, event: dict[str, Any]) -> None:
        request = event["request"]
        if request["url"].startswith("http"):
            self.changed_at = time.monotonic()
            self._open[event["requestId"]] = "data" if "/graphql" in request["url"] else "static"

    def _finish(self, event: dict[str, Any]) -> None:
        if kind := self._open.pop(event["requestId"], ""):
            self.changed_at = time.monotonic()
            self.bytes[kind] += int(event.get("encodedDataLength", 0))


def measure_pages(address: str) -> dict[str, float]:
    """Figures of the first load of the home page, and of *Automation* in a UI that is loaded."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        rounds = []
        for _ in range(_ROUNDS):
            context = browser.new_context()
            page, traffic = context.new_page(), Traffic()
            traffic.attach(context.new_cdp_session(page))
            first = traffic.measure(page, lambda page=page: page.goto(address))  # type: ignore[misc]
            link = page.get_by_role("link", name="Automation")
            automation = traffic.measure(page, lambda link=link: link.click())  # type: ignore[misc]
            assert page.get_by_text("publish_collections").first.is_visible(), "the page has no sensors"
            rounds.append({
                **{f"first_load_{name}": value for name, value in first.items()},
                **{f"automation_{name}": value for name, value in automation.items()},
            })  # fmt: skip
            context.close()
        browser.close()
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
