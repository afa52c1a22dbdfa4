"""What verbs share.

The options for the registry and the output, opening it, printing the result; and the options of
commits that several verbs have, with their types.
"""

import functools
import gc
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import click
from typing_extensions import override

from share_registry.cli.completion import SPACE
from share_registry.cli.output import emit, say, watching
from share_registry.cli.session import Session, session
from share_registry.cli.typed_path import TypedPath
from share_registry.errors import InvalidInputError, ensure

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry
    from share_registry.values.audits import Checkpoint

P = ParamSpec("P")
C = TypeVar("C", bound=click.Command)
# Where a registry lives as long as the process
MEMORY: Final = "memory://"
# Exit code of `diff --exit-code` where two differ: git's 1 is that of a store that cannot be read
DIFFERENT: Final = 9
_NOTHING_KEPT: Final = f"note: {MEMORY} keeps nothing: it is gone when this ends"
_PERCENT: Final = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*%")


class _Verb(click.Command):
    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            # click's parser does not say of which verb an option lacks its value
            error.ctx = error.ctx or ctx
            raise


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
            type=SPACE if "--space" in names else None,
        )
        for names, metavar, text in _COMMON
    )
    return command


def verb(
    mode: str,
    *,
    doing: str = "",
    lists: str = "",
    first: Callable[[Session, Mapping[str, Any]], None] | None = None,
    writing: str = "",
) -> Callable[[Callable[Concatenate["Registry", P], object]], click.Command]:
    """Make a command of a function that gets the open registry and returns what is to be printed.

    Args:
        mode: How the registry is opened: "r", "w" or "c".
        first: Whether it may begin a registry at the default place, where none is: what is called
            before that with what was asked, and refuses what would leave an empty registry.
        doing: What is shown on a terminal while it runs, for verbs that take long.
        lists: What it lists, for verbs that do.
        writing: The option with which a verb that reads writes.
    """

    def decorate(function: Callable[Concatenate["Registry", P], object]) -> click.Command:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            asked = session()
            if doing:
                gc.enable()
            begins = first is not None and asked.begins()
            if first is not None and begins:
                first(asked, kwargs)
            created: list[str] = []
            opening = "c" if begins else "w" if kwargs.get(writing) else mode
            with ExitStack() as until_printed:
                try:
                    with watching(doing, asked), asked.open(opening) as registry:
                        created = registry.context.created
                        if opening != "r":
                            until_printed.enter_context(_telling(registry))
                            if registry.location == MEMORY:
                                say(_NOTHING_KEPT, asked)
                        result = function(registry, *args, **kwargs)
                finally:
                    for text in created:
                        say(text, asked)
                emit(result, asked, brief=mode != "r", lists=lists)

        return with_common_options(click.command(cls=_Verb)(run))

    return decorate


def _telling(registry: "Registry") -> AbstractContextManager[None]:
    """Return a context in which an interrupt says what was committed."""
    from share_registry.registry.commands.interrupts import telling_of_interrupts

    return telling_of_interrupts(registry.context)


def free_verb(function: Callable[P, object]) -> click.Command:
    """Make a command of a function that needs no open registry, and print what it returns."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        gc.enable()
        emit(function(*args, **kwargs), session())

    return with_common_options(click.command(cls=_Verb)(run))


def with_options(
    *options: Callable[["click.decorators.FC"], "click.decorators.FC"],
) -> Callable[["click.decorators.FC"], "click.decorators.FC"]:
    """Make one decorator of the options that several verbs share."""

    def decorate(function: "click.decorators.FC") -> "click.decorators.FC":
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def budget_of(text: str) -> float:
    """Return the relative error in `0.025` or `2.5%`.

    A percentage is read as decimal digits: 2.5% is 0.025 to the last bit.
    """
    percent = _PERCENT.fullmatch(str(text).strip())
    try:
        return float(f"{percent['number']}e-2" if percent else text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a relative error: write 0.025 or 2.5%."
        ) from error


def expected_of(text: str) -> int:
    """Return the task version in `3`, `v3` or `absent`. Raises InvalidInputError."""
    if text == "absent":
        from share_registry import ABSENT

        return ABSENT
    digits = text.removeprefix("v")
    ensure(
        digits.isdecimal() and digits.isascii(),
        InvalidInputError(
            f"expected version {text!r} is not a task version.",
            hint="Give a number like 3 or v3, or 'absent'.",
        ),
    )
    return int(digits)


def commit_of(text: str) -> int | str:
    """Return the number in `12` or `c12`, or a reference as it is."""
    number = re.fullmatch(r"c?(\d{1,15})", text)
    return int(number[1]) if number else text


def checkpoint_or_time(text: str) -> "Checkpoint | str":
    """Return the checkpoint in a file, or a time as it is."""
    from share_registry.outside.files import Kind, Outside
    from share_registry.values.audits import Checkpoint

    outside = Outside()
    if outside.kind(outside.absolute(Path(text))) is Kind.FILE:
        return Checkpoint.load(text)
    ensure(
        text[:1].isdigit(),
        InvalidInputError(
            f"{text!r} is no time, and no file.",
            hint="Give a file that `share-registry checkpoint -o FILE` wrote, or a time such as "
            "2026-11-16.",
        ),
    )
    return text


def named_of(pairs: Iterable[str], *, hint: str) -> dict[str, str]:
    """Return `name=value` pairs as a dict. Raises InvalidInputError."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        ensure(
            equals and name and name not in values,
            InvalidInputError(f"{pair!r} is not NAME=VALUE with a name of its own.", hint=hint),
        )
        values[name] = value
    return values


def _remember(context: click.Context, option: click.Parameter, value: object) -> None:
    if value not in (None, False, ()):
        context.ensure_object(dict)[option.name] = value


def _labels(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    return named_of(pairs, hint="Give one option per label or metric: --label team=search.")


def _metrics(
    context: click.Context, option: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, float]:
    return {name: _number(name, value) for name, value in _labels(context, option, pairs).items()}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(
            f"metric {name}={text!r} is not a number.", hint="Use --label for text."
        ) from error


label_option: Final = click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_labels,
    metavar="NAME=VALUE",
    help="Label; may be repeated.",
)
metric_option: Final = click.option(
    "--metric",
    "metrics",
    multiple=True,
    callback=_metrics,
    metavar="NAME=NUMBER",
    help="Metric; may be repeated.",
)
message_option: Final = click.option(
    "-m", "--message", default="", metavar="TEXT", help="What this commit is, for the log."
)
author_option: Final = click.option(
    "--author",
    metavar="NAME",
    help="Who. [$SHARE_REGISTRY_AUTHOR, else CI's actor, git's user.name, the system's user]",
)
check_option: Final = click.option(
    "--check",
    "checks",
    multiple=True,
    expose_value=False,
    callback=_remember,
    metavar="NAME=COMMAND",
    help="Run COMMAND on the adapter's files first, and commit only if it exits with 0; may be "
    "repeated. [$SHARE_REGISTRY_CHECKS]",
)
reason_option: Final = click.option(
    "--reason", default="", metavar="TEXT", help="Why, for the log."
)
record_option: Final = click.option(
    "--record",
    is_flag=True,
    help="Say in the log that it was exported, and where to. Releases without the feature "
    "`exports` refuse what is behind such a record.",
)
key_option: Final = click.option(
    "--idempotency-key", metavar="KEY", help="Running again with the same key never commits twice."
)
dry_run_option: Final = click.option(
    "--dry-run", is_flag=True, help="Measure and report; commit nothing."
)
format_option: Final = click.option(
    "--format",
    metavar="NAME",
    help="What the files are, such as peft, kohya or mlx-lm. [their content tells]",
)
expected_option: Final = click.option(
    "--expected",
    type=expected_of,
    metavar="VERSION",
    help="Version that must be the task's latest, or 'absent'; otherwise exit code 4.",
)
sign_option: Final = click.option(
    "--sign",
    metavar="KEY",
    help="Sign with the private key in this file, or with Sigstore ('sigstore').",
)
base_config_option: Final = click.option(
    "--base-config",
    metavar="PATH",
    type=TypedPath(),
    help="For llama.cpp: config.json of the base model, or its directory. [of the Hub's cache]",
)
target_options: Final = with_options(
    click.option(
        "--profile",
        type=click.Choice(["native", "portable"]),
        help="Same keys and ranks, or the form that every server reads alike. "
        "[native, or the first that --target reads rightly]",
    ),
    click.option(
        "--target",
        metavar="SERVER",
        help="For peft, vllm, sglang, lorax, llama.cpp, openvino, onnxruntime or diffusers: what "
        "that refuses or misreads is refused.",
    ),
)
listening_options: Final = with_options(
    click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        metavar="ADDRESS",
        help="Where to listen; one that other machines reach needs a token.",
    ),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=8080,
        show_default=True,
        help="At which port; 0 for any that is free.",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        help="Has the token that requests must bring; browsers ask for it as the password. "
        "[$SHARE_REGISTRY_SERVE_TOKEN]",
    ),
)
signatory_options: Final = with_options(
    click.option(
        "--key", metavar="FILE", help="Who must have signed: the public key of the signer."
    ),
    click.option(
        "--identity", metavar="WHO", help="Or, signed with Sigstore, this address or workflow,"
    ),
    click.option("--issuer", metavar="URL", help="for which this OpenID Connect issuer vouches."),
)
# Names, metavariable (None: a flag) and help of the options that every verb takes
_COMMON: Final = (
    (
        ("-R", "--registry"),
        "PLACE",
        "Directory or bucket, or a catalog URL. [$SHARE_REGISTRY_URI, else ./share-registry]",
    ),
    (
        ("--store",),
        "PLACE",
        "Directory or bucket of the store, with a catalog URL. [$SHARE_REGISTRY_STORE]",
    ),
    (
        ("-s", "--space", "in_space"),
        "NAME",
        "Space, where a reference names none. [$SHARE_REGISTRY_SPACE, else the only one]",
    ),
    (("--json",), None, "Print JSON."),
    (("-q", "--quiet"), None, "Print only references."),
)
