"""The pages in a browser: by mouse, by keyboard, on a phone, in the dark, without scripts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from share_registry.ui.views.page_table import PAGES
from tests.cli.tiny import SPACE
from tests.ui.browser import MOST_SHIFT, Watched, chromium, serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(story: Path) -> Iterator[str]:
    with serving(story) as address:
        yield address


@pytest.fixture
def watched(browser: Browser, address: str) -> Iterator[Watched]:
    watched = Watched(browser, address, permissions=["clipboard-read", "clipboard-write"])
    watched.page.goto(address)
    yield watched
    watched.close()
    assert watched.complaints == []
    assert watched.elsewhere == []


def tour(watched: Watched) -> Iterator[str]:
    """Click from the first page to every other; yield the path of each that was reached."""
    page = watched.page

    def click(name: str, *, within: str = "main", role: str = "link") -> str:
        page.locator(within).get_by_role(role, name=name, exact=True).first.click()  # type: ignore[arg-type]
        page.wait_for_load_state()
        return watched.at()

    yield watched.at()
    yield click(SPACE)
    yield click("Log", within=".tabs")
    yield click("c4")
    yield click("cola@v2") if page.get_by_role("link", name="cola@v2").count() else click(SPACE)
    page.goto(f"{watched.address}/spaces/{SPACE}")
    yield click("cola")
    yield click("Files", within=".tabs")
    yield click("Servers", within=".tabs")
    yield click("Spectra", within=".tabs")
    click("Version", within=".tabs")
    yield click("Compare", role="button")
    page.get_by_role("link", name=re.compile("cola@v")).first.click()
    click(SPACE, within=".crumbs")
    yield click("Retention", within=".tabs")
    yield click("Log", within=".top")
    yield click("Live on", within=".top")
    page.get_by_label("Date or time").fill("2999-01-01")
    yield click("Show", role="button")
    yield click("What changed since")
    yield click("Changes", within=".top")
    yield click("Verify", within=".top")
    yield click("Verify", role="button")


def test_every_page_is_reached_by_clicking_and_good_to_look_at(watched: Watched) -> None:
    reached, faults = [], []
    for path in tour(watched):
        reached.append(path.partition("?")[0])
        expect(watched.page.locator("h1")).to_be_visible()
        if (shift := watched.shift()) > MOST_SHIFT:
            faults.append(f"{path}: the layout shifts by {shift}")
        if (pixels := watched.overflow()) > 0:
            faults.append(f"{path}: a phone scrolls {pixels} pixels sideways")
        faults += [f"{path}: {violation}" for violation in watched.violations()]
    assert faults == []
    unreached = [
        pattern
        for pattern in PAGES
        if not any(re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), path) for path in reached)
    ]
    assert unreached == []


def test_without_scripts_pages_are_filtered_compared_and_turned(
    browser: Browser, address: str
) -> None:
    watched = Watched(browser, address, java_script_enabled=False)
    page = watched.page
    page.goto(f"{address}/spaces/{SPACE}")
    page.get_by_label("Name").fill("col")
    page.get_by_role("button", name="Filter").click()
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("link", name="cola", exact=True).click()
    page.get_by_label("Compare from v1").check()
    page.get_by_role("button", name="Compare").click()
    assert page.url.startswith(f"{address}/diff?")
    assert page.get_by_role("heading", name="Change of each module").is_visible()
    assert page.locator(".code button").count() == 0
    watched.close()
    assert watched.complaints == []


def test_a_filter_that_is_none_is_said_where_the_list_was(watched: Watched) -> None:
    page = watched.page
    page.goto(f"{watched.address}/spaces/{SPACE}")
    page.get_by_label("Where").fill("accuracy>")
    page.keyboard.press("Enter")
    expect(page.locator("#results .note.bad")).to_contain_text("accuracy>")
    page.get_by_label("Where").fill("")
    page.keyboard.press("Enter")
    expect(page.locator("#results tbody tr").first).to_be_visible()
    assert watched.complaints == []


def test_a_list_follows_what_is_typed_and_the_way_back_leads_back(watched: Watched) -> None:
    page = watched.page
    page.goto(f"{watched.address}/spaces/{SPACE}")
    rows = page.locator("tbody tr")
    before = rows.count()
    field = page.get_by_label("Name")
    field.press_sequentially("sst")
    expect(rows).to_have_count(1)
    expect(page.get_by_role("status")).to_have_text("1 task shown")
    expect(field).to_be_focused()
    assert watched.at() == f"/spaces/{SPACE}?name=sst"
    field.press_sequentially("xyz")
    expect(page.get_by_text("No task fits.")).to_be_visible()
    page.go_back()
    expect(rows).to_have_count(1)
    page.go_back()
    expect(rows).to_have_count(before)
    # where it was, and nothing of what was shown
    kept = page.evaluate("[...Object.entries(localStorage), ...Object.entries(sessionStorage)]")
    assert [value for _, value in kept] == [f"/spaces/{SPACE}"]


def test_a_keyboard_skips_to_the_content_scrolls_tables_and_copies(watched: Watched) -> None:
    page = watched.page
    page.goto(f"{watched.address}/tasks/{SPACE}/cola")
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    expect(skip).to_have_text("Skip to the content")
    assert skip.bounding_box()["x"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    focused: list[str] = []
    for _ in range(80):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.getAttribute('role') || ''"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
    assert "region" in focused
    copy = page.get_by_role("button", name="Copy: vLLM")
    page.get_by_text("vLLM", exact=True).click()
    copy.focus()
    page.keyboard.press("Enter")
    expect(copy).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("share-registry export ")
    assert "\n$ " not in copied
