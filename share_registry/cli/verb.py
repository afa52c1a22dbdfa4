"""What all verbs share.

The options for the registry and the output, opening it, printing the result.
"""

import functools
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from share_registry.registry.opening import Location
    from share_registry.registry.registry import Registry

P = ParamSpec("P")
C = TypeVar("C", bound=click.Command)
_KEY: Final = "share_registry."


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Where to look and how to print, as given before or after the verb.

    Attributes:
        registry: Directory or catalog URL; None is the library's default.
        store: Directory of the store, with a catalog URL.
        space: Space for references and verbs that name none.
        json: Print JSON.
        quiet: Print refs only.
    """

    registry: str | None
    store: str | None
    space: str | None
    json: bool
    quiet: bool

    def locate(self) -> "Location":
        """Return where the registry is, for verbs that look at it without opening it."""
        from share_registry.outside.files import Outside
        from share_registry.registry.opening import locate

        return locate(self.registry, store=self.store, outside=Outside())

    def open(self, mode: str) -> "Registry":
        """Open the registry."""
        from share_registry import Registry

        return Registry.open(self.registry, store=self.store, space=self.space, mode=mode)


def with_common_options(command: C) -> C:
    """Add the options that every verb takes; they never reach its function."""
    command.params.extend(
        click.Option(
            names,
            metavar=metavar,
            is_flag=metavar is None,
            expose_value=False,
            callback=_remember,
            help=text,
        )
        for names, metavar, text in _COMMON
    )
    return command


def session() -> Session:
    """Return what the common options of the running command say."""
    meta = click.get_current_context().meta
    return Session(
        registry=meta.get(f"{_KEY}registry"),
        store=meta.get(f"{_KEY}store"),
        space=meta.get(f"{_KEY}in_space"),
        json=meta.get(f"{_KEY}json", False),
        quiet=meta.get(f"{_KEY}quiet", False),
    )


def verb(
    mode: str, *, doing: str = "", lists: str = ""
) -> Callable[[Callable[Concatenate["Registry", P], object]], click.Command]:
    """Make a command of a function that gets the open registry and returns what is to be printed.

    Args:
        mode: How the registry is opened: "r", "w" or "c".
        doing: What is shown on a terminal while it runs, for verbs that take long.
        lists: What it lists, for verbs that do.
    """

    def decorate(function: Callable[Concatenate["Registry", P], object]) -> click.Command:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            from share_registry.cli.output import emit
            from share_registry.cli.progress import watching

            asked = session()
            if doing:
                gc.enable()
            with watching(doing, asked), asked.open(mode) as registry:
                result = function(registry, *args, **kwargs)
            emit(result, asked, brief=mode != "r", lists=lists)

        return with_common_options(click.command(_name(function))(run))

    return decorate


def free_verb(function: Callable[P, object]) -> click.Command:
    """Make a command of a function that needs no open registry, and print what it returns."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from share_registry.cli.output import emit

        gc.enable()
        emit(function(*args, **kwargs), session())

    return with_common_options(click.command(_name(function))(run))


def _name(function: Callable[..., object]) -> str:
    return function.__name__.replace("_", "-")


def _remember(context: click.Context, option: click.Parameter, value: object) -> None:
    if value not in (None, False):
        context.meta[f"{_KEY}{option.name}"] = value


# Names, metavariable (None: a flag) and help of the options that every verb takes
_COMMON: Final = (
    (
        ("-R", "--registry"),
        "PLACE",
        "Directory of the registry, or a catalog URL. [$SHARE_REGISTRY_URI, else ./share-registry]",
    ),
    (
        ("--store",),
        "DIRECTORY",
        "Directory of the store, with a catalog URL. [$SHARE_REGISTRY_STORE]",
    ),
    (
        ("-s", "--space", "in_space"),
        "NAME",
        "Space, where a reference names none. [$SHARE_REGISTRY_SPACE, else the only one]",
    ),
    (("--json",), None, "Print JSON."),
    (("-q", "--quiet"), None, "Print only references."),
)
