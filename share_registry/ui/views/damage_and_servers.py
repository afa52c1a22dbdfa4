"""What is checked: the registry for damage, a version by the rules of servers."""

from typing import Final

from starlette.requests import Request

from share_registry.ui.views.page import LEVELS, Page, Site, text_of
from share_registry.ui.views.tasks_and_commits import asked_version

# Findings of one page
_MOST: Final = 200


def show_verify(site: Site, request: Request) -> Page:
    """Show what is damaged, where it is asked for: that reads much."""
    level, subset = text_of(request, "level"), text_of(request, "subset")
    report = None if level is None else site.verify(level=level, subset=subset)
    return Page(
        template="verify.html",
        title="Verify",
        members={
            "level": level,
            "levels": LEVELS,
            "subset": subset,
            "report": report,
            "most": _MOST,
        },
    )


def show_servers(site: Site, request: Request) -> Page:
    """Show what servers make of a version."""
    space, ref = asked_version(site, request)
    return Page(
        template="servers.html",
        title=f"Servers for {ref}",
        members={"space": space, "ref": ref, "lint": site.registry.lint(ref)},
    )
