"""What the common options of a command say: where the registry is, and how to print."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from share_registry.registry.admission import Check
    from share_registry.registry.location import Location
    from share_registry.registry.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Where to look and how to print, as given before or after the verb.

    Attributes:
        registry: Directory or catalog URL; None is the library's default.
        store: Directory of the store, with a catalog URL.
        space: Space for references and verbs that name none.
        json: Print JSON.
        quiet: Print refs only.
        checks: Checks of commits, as `NAME=COMMAND`.
    """

    registry: str | None
    store: str | None
    space: str | None
    json: bool
    quiet: bool
    checks: tuple[str, ...] = ()

    def locate(self) -> "Location":
        """Return where the registry is, for verbs that look at it without opening it."""
        from share_registry.outside.files import Outside
        from share_registry.registry.location import locate

        return locate(self.registry, store=self.store, outside=Outside())

    def begins(self) -> bool:
        """Tell whether there is no registry yet at the default place, and no other is named."""
        from share_registry.outside.files import Outside
        from share_registry.store.open import is_new

        outside = Outside()
        is_named = self.registry is not None or outside.environment("SHARE_REGISTRY_URI")
        return not is_named and is_new(self.locate().store, outside)

    def open(self, mode: str) -> "Registry":
        """Open the registry."""
        from share_registry import Registry

        return Registry.open(
            self.registry,
            store=self.store,
            space=self.space,
            mode=mode,
            checks=self._checks(),
        )

    def _checks(self) -> "dict[str, Check] | None":
        if not self.checks:
            return None
        from share_registry.registry.admission import parse_checks

        return parse_checks(self.checks)


def session() -> Session:
    """Return what the common options of the running command say."""
    return session_of(click.get_current_context().ensure_object(dict))


def session_of(options: Mapping[str, Any]) -> Session:
    """Return what common options say, by their names."""
    return Session(
        registry=options.get("registry"),
        store=options.get("store"),
        space=options.get("in_space"),
        json=options.get("json", False),
        quiet=options.get("quiet", False),
        checks=options.get("checks", ()),
    )
