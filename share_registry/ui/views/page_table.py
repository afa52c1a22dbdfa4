"""Which path shows which page."""

from collections.abc import Mapping
from typing import Final

from share_registry.ui.views.computed import show_diff, show_files, show_retention, show_spectra
from share_registry.ui.views.damage_and_servers import show_servers, show_verify
from share_registry.ui.views.dates import show_changes, show_live, show_log
from share_registry.ui.views.overview import show_space, show_spaces
from share_registry.ui.views.page import View
from share_registry.ui.views.tasks_and_commits import show_commit, show_task

PAGES: Final[Mapping[str, View]] = {
    "/": View(show=show_spaces),
    "/log": View(show=show_log),
    "/live": View(show=show_live),
    "/changes": View(show=show_changes, is_heavy=True),
    "/verify": View(show=show_verify, is_heavy=True),
    "/diff": View(show=show_diff, is_heavy=True),
    "/spaces/{space}": View(show=show_space),
    "/spaces/{space}/log": View(show=show_log),
    "/spaces/{space}/retention": View(show=show_retention, is_heavy=True),
    "/tasks/{space}/{task}": View(show=show_task),
    "/tasks/{space}/{task}/files": View(show=show_files, is_heavy=True),
    "/tasks/{space}/{task}/servers": View(show=show_servers, is_heavy=True),
    "/tasks/{space}/{task}/spectra": View(show=show_spectra, is_heavy=True),
    "/commits/{space}/{commit}": View(show=show_commit),
}
