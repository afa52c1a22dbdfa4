"""A report in a real browser: nothing is asked for, nothing is refused, and it fits a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import share_registry as sr
from tests.cli.tiny import write_adapter

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the Chromium of the system")
PHONE: Final = 390
SUBJECTS: Final = {"space": None, "version": "cola@v2"}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a space and of a version, as files."""
    folder = tmp_path_factory.mktemp("reports")
    with sr.Registry.open(folder / "registry") as registry:
        for seed, task in enumerate(("cola", "cola", "sst2"), start=1):
            adapter = write_adapter(folder / f"{task}-{seed}", seed=seed)
            registry.commit(adapter, task=task, message="<script>alert(1)</script>")
        registry.set_alias("cola@v1", "prod")
        return {
            name: registry.report(ref).save(folder / f"{name}.html")
            for name, ref in SUBJECTS.items()
        }


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser: "Browser") -> Iterator["Page"]:
    page = browser.new_page(viewport={"width": PHONE, "height": 844})
    yield page
    page.close()


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_a_report_opens_without_a_request_or_a_word_on_the_console(
    subject: str, reports: dict[str, Path], page: "Page"
) -> None:
    requests: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(reports[subject].as_uri())
    for link in page.locator("nav a").all():
        link.click()
    for folded in page.locator("summary").all():
        folded.click()
    assert requests == [reports[subject].as_uri()]
    assert said == []


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_a_report_fits_a_phone_and_its_drawings_keep_their_size(
    subject: str, reports: dict[str, Path], page: "Page"
) -> None:
    page.goto(reports[subject].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    for drawing in page.locator("svg.drawing").all():
        box = drawing.bounding_box()
        assert box is not None
        assert box["width"] == pytest.approx(float(drawing.get_attribute("width") or 0), abs=1)
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg text, td, p')].map("
        "part => parseFloat(getComputedStyle(part).fontSize))"
    )
    assert min(sizes) >= 12


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_report_has_the_theme_of_its_reader(
    scheme: str, reports: dict[str, Path], page: "Page"
) -> None:
    from share_registry.look.palette import DARK, LIGHT

    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(reports["version"].as_uri())
    theme = {"dark": DARK, "light": LIGHT}[scheme]
    painted = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, "
        "getComputedStyle(document.querySelector('svg text')).fill]"
    )
    assert painted == [_rgb(theme.paper), _rgb(theme.muted)]


def _rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))})"
