"""The verb that goes on: it answers requests over HTTP."""

from typing import Any

import click

from share_registry.cli.completion import ALIAS
from share_registry.cli.output import say
from share_registry.cli.session import session
from share_registry.cli.verb import base_config_option, free_verb, listening_options, target_options
from share_registry.errors import RefusedError


@free_verb
@listening_options
@click.option(
    "--alias",
    type=ALIAS,
    default="prod",
    show_default=True,
    metavar="NAME",
    help="/v1/models lists it.",
)
@target_options
@base_config_option
@click.option(
    "--base-model",
    metavar="NAME",
    help="What the configs name as base model. [what they named]",
)
@click.option(
    "--cache",
    metavar="DIRECTORY",
    help="Keep what was exported here, from run to run. [a temporary directory]",
)
@click.option(
    "--cache-gb",
    type=float,
    default=20.0,
    show_default=True,
    metavar="NUMBER",
    help="What it may hold, in 10^9 bytes.",
)
def serve(**options: Any) -> None:
    """Answer requests over HTTP, for clients that have no library; writes nothing.

    /v1/models lists what is behind an alias, /v1/resolve/REF says which files a version has,
    /v1/adapters/NAME/FILE sends them. Needs the extra 'serve'.

    \b
    share-registry serve
    share-registry serve --host 0.0.0.0 --token-file token --cache /var/cache/adapters
    """
    try:
        from share_registry.http.server import ServeRequest, run_server
    except ImportError as error:
        raise RefusedError(
            f"{error.name or 'a library'} is not installed, expected it to serve.",
            hint="pip install 'share-registry[serve]'",
        ) from error
    from share_registry.outside.files import Outside

    asked = session()
    request = ServeRequest(registry=asked.registry, store=asked.store, space=asked.space, **options)
    run_server(
        request,
        outside=Outside(),
        tell=lambda line: say(line, asked),
    )
