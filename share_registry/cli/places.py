"""Where the registry is, for the verbs that look at it without opening it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from share_registry.errors import InvalidInput

if TYPE_CHECKING:
    from share_registry.cli.verb import Session


def places(session: "Session") -> tuple[Path, str]:
    """Return the store's directory and the catalog's URL. Raises InvalidInput."""
    from share_registry.registry.home import CATALOG_FILE, DEFAULT_LOCATION

    location = session.registry or os.environ.get("SHARE_REGISTRY_URI") or DEFAULT_LOCATION
    if "://" not in location:
        return Path(location), f"sqlite:///{Path(location) / CATALOG_FILE}"
    store = session.store or os.environ.get("SHARE_REGISTRY_STORE")
    if not store:
        raise InvalidInput("a catalog URL needs the directory of the store.", hint="Give --store or set $SHARE_REGISTRY_STORE.")
    return Path(store), location
