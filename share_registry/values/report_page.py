"""A report that is one HTML file, to be attached to a review."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from typing_extensions import override

from share_registry import kinds
from share_registry.errors import RefusedError, ensure
from share_registry.escapes import html
from share_registry.kinds import FilePath
from share_registry.outside.files import Kind, Outside
from share_registry.values.sheet import Sheet, Shown

# What every report begins with, and no other file is overwritten
BEGINNING: Final = "<!doctype html>\n<!-- share-registry report -->\n"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReportPage(Shown):
    """A report as one HTML file, which asks for nothing and runs nothing.

    Attributes:
        subject: The version or the space that it is about.
        state: The last commit of the space when it was made, as `space/@cN`.
        content: The file; the same state gives the same bytes.
    """

    subject: str
    state: str
    content: str = field(repr=False)

    def __repr__(self) -> str:
        return f"<ReportPage {self.subject} at {self.state}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        frame = 'sandbox="" title="report" width="100%" height="640"'
        return f'<iframe {frame} srcdoc="{html(self.content)}"></iframe>'

    @kinds.takes(file=kinds.path, overwrite=kinds.flag)
    def save(self, file: FilePath, *, overwrite: bool = False) -> Path:
        """Write the file whole, in one step; the same report already there is success.

        Args:
            file: Where; the directory is made if it is not there.
            overwrite: Replace another report that is there; nothing else is ever replaced.

        Raises:
            RefusedError: something else is there.
            StoreError: the disk refuses.
        """
        outside = Outside()
        path, content = outside.absolute(Path(file)), self.content.encode()
        if outside.kind(path) is None and _create(path, content, outside):
            return path
        if _is_file(path, content, outside):
            return path
        ensure(
            _is_report(path, outside),
            RefusedError(f"{path} is there and is no report.", hint="Name another file."),
        )
        ensure(
            overwrite,
            RefusedError(
                f"{path} is another report.", hint="Name another file, or overwrite=True."
            ),
        )
        outside.rewrite(path, content, point="report")
        return path

    @override
    def sheet(self) -> Sheet:
        return Sheet(title=f"report of {self.subject} at {self.state}", refs=(self.subject,))


def _create(path: Path, content: bytes, outside: Outside) -> bool:
    """Write a file where nothing is; tell whether that was still so in the end."""
    outside.make_directory(path.parent)
    fresh = path.with_name(f".{path.name}.{outside.token()[:16]}.new")
    outside.write_new(fresh, content, point="report")
    try:
        is_new = outside.link_new(fresh, path)
    finally:
        if outside.exists(fresh):
            outside.remove(fresh)
    outside.sync_directory(path.parent)
    return is_new


def _is_file(path: Path, content: bytes, outside: Outside) -> bool:
    return outside.size(path) == len(content) and (
        outside.read(path, limit=len(content)) == content
    )


def _is_report(path: Path, outside: Outside) -> bool:
    if outside.kind(path) is not Kind.FILE:
        return False
    return outside.read_beginning(path, size=len(BEGINNING)) == BEGINNING.encode()
