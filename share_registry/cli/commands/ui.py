"""The verb that shows: pages of the registry in a browser."""

from typing import Any

from share_registry.cli.output import say
from share_registry.cli.session import session
from share_registry.cli.verb import free_verb, listening_options
from share_registry.errors import RefusedError


@free_verb
@listening_options
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
