"""The verb that shows: pages of the registry in a browser."""

from typing import Any

import click

from share_registry.cli.output import say
from share_registry.cli.session import session
from share_registry.cli.verb import free_verb
from share_registry.errors import RefusedError


@free_verb
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where to listen; one that other machines reach needs a token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="At which port; 0 for any that is free.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="Has the token that requests must bring; browsers ask for it as the password. "
    "[$SHARE_REGISTRY_SERVE_TOKEN]",
)
def ui(**options: Any) -> None:
    """Show the registry in a browser; writes nothing.

    Spaces, tasks with their versions and aliases, what was live on a date, comparisons, the log.
    Under /v1/ it answers what verbs print with --json, and everything that `serve` answers. Needs
    the extra 'ui'.

    \b
    share-registry ui
    share-registry ui --host 0.0.0.0 --token-file token
    """
    try:
        from share_registry.http.server import ServeRequest
        from share_registry.ui.site import run_site
    except ImportError as error:
        raise RefusedError(
            f"{error.name or 'a library'} is not installed, expected it to show pages.",
            hint="pip install 'share-registry[ui]'",
        ) from error
    from share_registry.outside.files import Outside

    asked = session()
    request = ServeRequest(registry=asked.registry, store=asked.store, space=asked.space, **options)
    run_site(request, outside=Outside(), tell=lambda line: say(line, asked))
