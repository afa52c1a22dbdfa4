"""Photographs every page again: `python -m docs.screens`; needs chromium and Pillow."""

import tempfile
from contextlib import chdir
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from docs.screens.shown import FOLDER, MAX_BYTES, SCREENS, Screen, write_registry
from tests.ui.browser import chromium, serving

# Colours of a picture, the most that fit
COLOURS = (256, 128, 64, 32)


def main() -> None:
    """Write one PNG a page."""
    # in a folder of its own: pages show where a registry is, and commits where they were made
    with tempfile.TemporaryDirectory() as root, chdir(root):
        place = Path("registry")
        write_registry(place)
        with chromium() as browser, serving(place) as address:
            for name, screen in SCREENS.items():
                (FOLDER / f"{name}.png").write_bytes(_shrink(_photograph(browser, address, screen)))


def _photograph(browser: Browser, address: str, screen: Screen) -> bytes:
    page = browser.new_page(
        viewport={"width": screen.width, "height": 640},
        color_scheme=screen.theme,  # type: ignore[arg-type]
    )
    page.goto(f"{address}{screen.path}")
    page.wait_for_load_state("networkidle")
    height = min(page.evaluate("document.body.scrollHeight"), screen.height)
    clip = {"x": 0, "y": 0, "width": screen.width, "height": height}
    content = page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
    page.close()
    return content


def _shrink(content: bytes) -> bytes:
    """Return a picture with as many colours as fit. Raises ValueError."""
    image = Image.open(BytesIO(content)).convert("RGB")
    for colours in COLOURS:
        file = BytesIO()
        reduced = image.quantize(colours, dither=Image.Dither.NONE)
        reduced.save(file, "PNG", optimize=True)
        if len(file.getvalue()) < MAX_BYTES:
            return file.getvalue()
    raise ValueError(f"a picture of {image.size} does not fit into {MAX_BYTES} bytes")


if __name__ == "__main__":
    main()
