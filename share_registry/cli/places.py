"""Where the registry is, for the verbs that look at it without opening it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from share_registry.cli.verb import Session


def places(session: "Session") -> tuple[Path, str]:
    """Return the store's directory and the catalog's URL. Raises InvalidInput."""
    from share_registry.outside import Outside
    from share_registry.registry import home

    root, url = home.places(session.registry, store=session.store, outside=Outside())
    return root, url or home.catalog_url(root)
