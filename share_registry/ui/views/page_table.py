"""Which path shows which page."""

from collections.abc import Mapping
from typing import Final

from share_registry.ui.views.overview import show_space, show_spaces
from share_registry.ui.views.page import View
from share_registry.ui.views.tasks_and_commits import show_commit, show_task

PAGES: Final[Mapping[str, View]] = {
    "/": View(show=show_spaces),
    "/spaces/{space}": View(show=show_space),
    "/tasks/{space}/{task}": View(show=show_task),
    "/commits/{space}/{commit}": View(show=show_commit),
}
