"""Templates: how values become HTML, in which nothing of anybody's is markup.

Every text is escaped, and what drives a terminal or reorders letters is replaced, as on the
command line.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from share_registry import __version__
from share_registry.escapes import html, printable
from share_registry.look import units
from share_registry.look.sparkline import sparkline
from share_registry.times import timestamp
from share_registry.ui import addresses
from share_registry.ui.bundle import Assets
from share_registry.values import sheet, text_table
from share_registry.values.tasks import AUTOMATIC_LABELS

# What the bar on top of each page leads to
SECTIONS: Final = (
    ("Spaces", "/"),
    ("Log", "/log"),
    ("Live on", "/live"),
    ("Changes", "/changes"),
    ("Compare", "/diff"),
    ("Verify", "/verify"),
)


def templates(bundle: Assets, *, name: str) -> Environment:
    """Return the templates of the package, with what they may call.

    Args:
        bundle: The files that pages refer to.
        name: Of the registry.
    """
    environment = Environment(
        loader=PackageLoader("share_registry.ui", "templates"),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        **_FUNCTIONS,
        "asset": bundle.path,
        "registry": name,
        "sections": SECTIONS,
        "version": __version__,
    }
    return environment


def _harmless(value: object) -> object:
    """Return what is shown of a value: text as `printable` does; markup of our own as it is."""
    if value is None:
        return ""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(str(value)) if is_text else value


def _moment(time: datetime) -> Markup:
    """Return a time in UTC to the minute, for machines to the microsecond."""
    text = units.time_text(time)
    return Markup(f'<time datetime="{timestamp(time)}" title="{text} UTC">{text[:16]}</time>')


def _labels(labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the labels that people gave, sorted."""
    return sorted(
        (name, sheet.short_ids(value))
        for name, value in labels.items()
        if name not in AUTOMATIC_LABELS
    )


def _by_change(modules: Mapping[str, float | None]) -> list[tuple[str, float | None]]:
    """Return modules with their changes, the largest first, and before it those that are new."""
    return sorted(modules.items(), key=lambda each: (each[1] is not None, -(each[1] or 0.0)))


def _linked(text: str) -> Markup | str:
    """Return a text, as a link where it is a reference that names its space."""
    path = addresses.reference_path(text) if "/" in text and "@" in text else ""
    return Markup(f'<a href="{html(path)}">{html(text)}</a>') if path else text


def _tabs(space: str) -> list[tuple[str, str]]:
    """Return the pages of a space with their paths."""
    path = addresses.space_path(space)
    return [("Tasks", path), ("Log", f"{path}/log"), ("Retention", f"{path}/retention")]


def _version_tabs(ref: str) -> list[tuple[str, str]]:
    """Return the pages of a version with their paths."""
    path = addresses.version_path(ref)
    others = ("Files", "Servers", "Spectra")
    return [("Version", path), *((name, f"{path}/{name.lower()}") for name in others)]


def _drawn(svg: str) -> Markup:
    """Return a drawing, in which everything is escaped already."""
    return Markup(svg)


_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "by_change": _by_change,
    "commit_path": addresses.commit_path,
    "count": units.count,
    "diff_path": addresses.diff_path,
    "first_line": text_table.first_line,
    "labels_of": _labels,
    "linked": _linked,
    "measured": units.measured,
    "moment": _moment,
    "percent": units.percent,
    "quoted": partial(quote, safe=""),
    "short_ids": sheet.short_ids,
    "size": units.size,
    "space_path": addresses.space_path,
    "sparkline": sparkline,
    "tabs_of": _tabs,
    "drawn": _drawn,
    "version_tabs": _version_tabs,
    "typed_percent": units.typed_percent,
    "version_path": addresses.version_path,
    "with_query": addresses.with_query,
}
