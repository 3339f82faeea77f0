"""A headless Chromium, watched: every request and every word on its console is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, sync_playwright

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """The browser on PATH; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Watch:
    """What a browser has done."""

    def __init__(self, context: BrowserContext) -> None:
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        context.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        context.on("console", self._heard)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@contextmanager
def browsing(folder: Path, **options: Any) -> Iterator[tuple[Page, Watch]]:
    """A page of a browser with an empty user folder."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder, executable_path=chromium(), args=FLAGS, **options
        )
        watch = Watch(context)
        try:
            yield context.pages[0] if context.pages else context.new_page(), watch
        finally:
            context.close()


def sign_in(page: Page, url: str, key: str) -> None:
    """From the login page to the overview."""
    page.goto(url)
    page.fill("#key", key)
    page.click("main form button")
    page.wait_for_selector("[data-part=figures] dl")
