"""Stylesheet, scripts and icon, each under a name that has its digest: it never changes.

They come with the package, with the licence of what others wrote, and from no other host.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from share_registry.look.stylesheet import page_style
from share_registry.outside.files import Outside

ASSETS: Final = Path(__file__).parent / "assets"
# Whose media types are named, as a machine may have other ideas of its own
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_MAX_BYTES: Final = 1 << 20
_DIGITS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file that pages refer to."""

    content: bytes
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """The files that pages refer to.

    Attributes:
        files: By the name under which they are asked for.
        names: That name, by the name that the package has.
    """

    files: Mapping[str, Asset]
    names: Mapping[str, str]

    def path(self, name: str) -> str:
        """Return the path of a file."""
        return f"/assets/{self.names[name]}"


def read_assets(outside: Outside) -> Assets:
    """Read the files of the package; the stylesheet begins with that of all results."""
    files, names = {}, {}
    for name in sorted(outside.names(ASSETS)):
        path = Path(name)
        if path.suffix not in _MEDIA_TYPES:
            continue
        content = outside.read(ASSETS / name, limit=_MAX_BYTES)
        if path.suffix == ".css":
            content = f"{page_style()}\n".encode() + content
        names[name] = f"{path.stem}-{sha256(content).hexdigest()[:_DIGITS]}{path.suffix}"
        files[names[name]] = Asset(content=content, media_type=_MEDIA_TYPES[path.suffix])
    return Assets(files=files, names=names)
