"""What a shell completes: references, tasks, aliases and spaces of the registry that is meant.

A shell asks by running the program with a variable of click's set, and takes what is printed. What
cannot be read completes to nothing: nobody wants errors while typing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    split_arg_string,
)
from typing_extensions import override

from share_registry.cli.session import session_of
from share_registry.errors import ShareRegistryError

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry

    Text = click.ParamType[str]
    Item = CompletionItem[str]
else:
    # generic since click 8.5
    Text, Item = click.ParamType, CompletionItem

PROGRAM: Final = "share-registry"
# Names offered at a time, and versions of one task
_MOST: Final = 200
_VERSIONS: Final = 20
# Bash ends words at letters that references have, such as @ and =, so it gets to know what was
# typed as a whole, and is given what follows the last of them.
_BASH: Final = r"""%(complete_func)s() {
    local IFS=$'\n' completion type value
    COMPREPLY=()
    for completion in $(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" \
        COMP_BREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1"); do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -o default -F %(complete_func)s %(prog_name)s
"""

Offers = Callable[["Registry", click.Context, str], Iterable[str]]


class Named(Text):
    """A name in the registry, which the shell completes.

    Args:
        name: What it names.
        offers: Returns what may stand there.
    """

    def __init__(self, name: str, offers: Offers) -> None:
        self.name = name
        self._offers = offers

    @override
    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Item]:
        with suppress(ShareRegistryError, OSError):
            with session_of(ctx.ensure_object(dict)).open("r") as registry:
                offered = dict.fromkeys(self._offers(registry, ctx, incomplete))
            fitting = (name for name in offered if name.startswith(incomplete))
            return [CompletionItem(name) for name in islice(fitting, _MOST)]
        return []


def _tasks(registry: "Registry", _: click.Context, typed: str) -> Iterator[str]:
    """Yield tasks by their names, with their spaces where one was begun or several are there."""
    space, slash, name = typed.rpartition("/")
    several = len(registry.spaces()) > 1
    for task in registry.tasks(space or None, name=f"{name}*", limit=_MOST):
        if not slash:
            yield task.name
        if slash or several:
            yield f"{task.space}/{task.name}"


def _references(registry: "Registry", context: click.Context, typed: str) -> Iterator[str]:
    task, at, _ = typed.partition("@")
    if not at:
        yield from _tasks(registry, context, typed)
        return
    space, _, name = task.rpartition("/")
    if name:
        for listed in registry.tasks(space or None, name=name, limit=1):
            last = listed.version
            yield from (f"{task}@{alias}" for alias in listed.aliases)
            yield f"{task}@latest"
            yield from (f"{task}@v{n}" for n in range(last, max(last - _VERSIONS, 0), -1))
    yield from (f"{task}@{tag.name}" for tag in registry.tags() if space in ("", tag.space))


def _aliases(registry: "Registry", context: click.Context, _: str) -> Iterator[str]:
    """Yield aliases: of the task that was named first those that it has."""
    task = context.params.get("task")
    yield from (alias.name for alias in registry.aliases(task=task))


def _spaces(registry: "Registry", _: click.Context, __: str) -> Iterator[str]:
    yield from (space.name for space in registry.spaces())


class _Paths(Text):
    name = "path"

    @override
    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Item]:
        return [CompletionItem(incomplete, type="file")]


FILES: Final = _Paths()
TASK: Final = Named("task", _tasks)
REF: Final = Named("ref", _references)
ALIAS: Final = Named("alias", _aliases)
SPACE: Final = Named("space", _spaces)


@add_completion_class
class _Bash(BashComplete):
    """Click's own, for words that have letters at which bash ends them."""

    source_template = _BASH

    @override
    def get_completion_args(self) -> tuple[list[str], str]:
        line = _asked("COMP_LINE")
        words = split_arg_string(line)[1:]
        self._typed = words.pop() if words and not line[-1:].isspace() else ""
        return words, self._typed

    @override
    def format_completion(self, item: Item) -> str:
        option, equals, value = self._typed.partition("=")
        typed = value if equals and option.startswith("--") else self._typed
        ends = (typed.rfind(letter) for letter in _asked("COMP_BREAKS"))
        return f"{item.type},{item.value[max(ends, default=-1) + 1 :]}"


def _asked(name: str) -> str:
    """Return what bash says in a variable."""
    from share_registry.outside.files import Outside

    return Outside().environment(name) or ""
