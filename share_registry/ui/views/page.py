"""What a view is: a function from a registry and a request to a page."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter
from starlette.requests import Request

from share_registry.errors import InvalidInputError, ShareRegistryError, ensure
from share_registry.http.answers import failure_of, inside
from share_registry.http.application import Service
from share_registry.registry.browsing import names_of_spaces
from share_registry.registry.registry import Registry
from share_registry.values.checks import VerifyReport
from share_registry.values.tasks import SpaceSummary

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_S = TypeVar("_S", bound="DataclassInstance")
# Pages that compute at a time, and others
_HEAVY = 2
_LIGHT = 16
# Levels of `verify` that read; `deep` computes as long as all commits together did
LEVELS = ("quick", "data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page.

    Attributes:
        template: File of the template.
        title: Of the window, and its first heading.
        members: What the template shows.
    """

    template: str
    title: str
    members: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What pages and documents are made from.

    Attributes:
        registry: Open for reading. With a scope, that space alone is listed and counted; what is
            asked for by name may be of another.
        service: Its files, for downloads.
        stores: Under which names the directory of the store goes, which no page says.
        heavy: Bounds the pages and documents that compute at a time.
        light: Bounds the others. Downloads wait for neither: they have the threads of the server.
    """

    registry: Registry
    service: Service
    stores: tuple[str, ...] = ()
    heavy: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_HEAVY))
    light: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_LIGHT))

    def space_names(self) -> list[str]:
        """Return the names of the spaces to choose from, damaged ones too."""
        scope = self.registry.scope
        return [*names_of_spaces(self.registry.context)] if scope is None else [scope]

    def spaces(self) -> list[SpaceSummary]:
        """Return the spaces that are listed. Raises as `Registry.spaces`."""
        scope = self.registry.scope
        return self.registry.spaces() if scope is None else [self.registry.space(scope).summary]

    def told(self, error: ShareRegistryError, *, asked: str) -> ShareRegistryError:
        """Return what a page says of an error; see `failure_of`."""
        return failure_of(error, asked=asked, stores=self.stores).told

    def verify(
        self, *, level: str, subset: str | None = None, shard: str | None = None
    ) -> VerifyReport:
        """Check the registry at a level that only reads. Raises InvalidInputError."""
        ensure(
            level in LEVELS,
            InvalidInputError(
                f"level {level!r} is not one of {', '.join(LEVELS)}.",
                hint="Run `share-registry verify --level deep` on a machine that has the time.",
            ),
        )
        report = self.registry.verify(level, subset=subset, shard=shard, raise_on_damage=False)
        findings = [
            replace(each, message=inside(each.message, self.stores)) for each in report.findings
        ]
        return replace(report, findings=tuple(findings))


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a page is made.

    Attributes:
        show: Makes it, in a thread.
        is_heavy: Whether it reads or computes much: only a few of these run at a time.
    """

    show: Callable[[Site, Request], Page]
    is_heavy: bool = False


def asked_for(kind: type[_S], request: Request) -> _S:
    """Return a selection, a dataclass of texts, from what a request asks for by their names."""
    return kind(**{field.name: text_of(request, field.name) for field in fields(kind)})


def text_of(request: Request, name: str) -> str | None:
    """Return what was asked for under a name, None where that is empty."""
    return request.query_params.get(name, "").strip() or None


def labels_of(pairs: Iterable[str]) -> dict[str, str]:
    """Return labels that were written as `NAME=VALUE`. Raises InvalidInputError."""
    labels = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or name in labels:
            raise InvalidInputError(
                f"label {pair!r} is not NAME=VALUE with a name of its own.",
                hint="Write team=search; the value may be a pattern.",
            )
        labels[name] = value
    return labels
