"""Chromium of the machine, driven without a window, and a real server to look at."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from share_registry.http.server import ServeRequest
from share_registry.outside.files import Outside
from share_registry.outside.listening import listen, port_of
from share_registry.ui.site import site_of

REQUIRED: Final = "SHARE_REGISTRY_TEST_BROWSER"
"""Where it is set, a machine without Chromium fails the tests, and does not skip them."""
AXE: Final = (Path(__file__).parent / "vendored" / "axe.min.js").read_text(encoding="utf-8")
RULES: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
GRAVE: Final = ("serious", "critical")
MOST_SHIFT: Final = 0.1
PHONE: Final = {"width": 360, "height": 800}
DESK: Final = {"width": 1280, "height": 900}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser; skip the test where the machine has none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "there is no chromium on this machine: apt-get install chromium"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            # tests run as root in containers, whose shared memory is small
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@contextmanager
def serving(place: Path) -> Iterator[str]:
    """Yield the address of a server of a registry, in a thread."""
    outside = Outside()
    request = ServeRequest(
        registry=place, store=None, space=None, host="127.0.0.1", port=0, token_file=None
    )
    with site_of(request, outside) as app:
        listener = listen("127.0.0.1", 0)
        config = uvicorn.Config(app, lifespan="off", log_config=None, http="h11", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{port_of(listener)}"
        server.should_exit = True
        thread.join()
        listener.close()


class Watched:
    """A page, and what a browser had to say of it."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.address = address
        self._context = browser.new_context(viewport=DESK, **options)  # type: ignore[arg-type]
        self._context.add_init_script(_OBSERVE_SHIFTS)
        self.page: Page = self._context.new_page()
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.visited: list[str] = []
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._note_dialog)
        self.page.on("requestfailed", self._note_failure)
        self.page.on("request", self._note_request)

    def close(self) -> None:
        self._context.close()

    def at(self) -> str:
        """Return the path of the page."""
        return self.page.url.removeprefix(self.address)

    def shift(self) -> float:
        """Return by how much the layout of the page has shifted since it was loaded."""
        return float(self.page.evaluate("window.shifted"))

    def overflow(self) -> int:
        """Return how many pixels a phone would have to scroll sideways."""
        self.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        self.page.set_viewport_size(DESK)  # type: ignore[arg-type]
        return int(wide)

    def violations(self) -> list[str]:
        """Return what axe holds against the page; what colours are to blame for, in both themes."""
        self.page.evaluate(AXE)
        grave = []
        for theme, rules in _ASKED.items():
            self.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            found = self.page.evaluate(_RUN_AXE, rules)
            grave += [
                f"{theme}: {each['id']}: {node['html']}"
                for each in found["violations"]
                if each["impact"] in GRAVE
                for node in each["nodes"]
            ]
        self.page.emulate_media(color_scheme="light")
        return grave

    def _note_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _note_failure(self, request: Any) -> None:
        # one that a click somewhere else has ended is none
        if "ERR_ABORTED" not in str(request.failure):
            self.complaints.append(f"{request.url}: {request.failure}")

    def _note_dialog(self, dialog: Any) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith(f"{self.address}/"):
            self.elsewhere.append(request.url)


_OBSERVE_SHIFTS: Final = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""
_RUN_AXE: Final = """
(rules) => axe.run(document, {runOnly: rules, resultTypes: ["violations"]})
"""
_ASKED: Final = {
    "light": {"type": "tag", "values": [*RULES]},
    "dark": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
}
