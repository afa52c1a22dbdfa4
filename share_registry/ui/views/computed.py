"""What tensors are read for: comparing two versions, spectra, the files of one, the matrix."""

from typing import Final

from starlette.requests import Request

from share_registry.look.module_map import change_map, directions_map
from share_registry.look.retention_map import retention_map
from share_registry.look.spectrum_map import spectrum_map
from share_registry.registry.analysis.analyze import version_spectra
from share_registry.registry.audit.retention import retention
from share_registry.registry.browsing import matrix_outline
from share_registry.ui.views.page import Page, Site, text_of
from share_registry.ui.views.tasks_and_commits import asked_version

# Tasks and commits of a matrix: a picture has no room for more
_MOST: Final = (60, 60)


def show_diff(site: Site, request: Request) -> Page:
    """Compare two versions, or two states of a space."""
    a, b = text_of(request, "a"), text_of(request, "b")
    diff = None if a is None or b is None else site.registry.diff(a, b)
    task = diff.tasks[0] if diff is not None and len(diff.tasks) == 1 else None
    changes = {
        module: change
        for module, change in (task.modules if task else {}).items()
        if change is not None
    }
    return Page(
        template="diff.html",
        title=f"{diff.a} .. {diff.b}" if diff else "Compare",
        members={
            "a": a,
            "b": b,
            "diff": diff,
            "task": task,
            "drawing": change_map(changes) if changes else "",
        },
    )


def show_retention(site: Site, request: Request) -> Page:
    """Show what each commit did to each task."""
    space = site.registry.space(request.path_params["space"])
    metric = text_of(request, "metric")
    outline = matrix_outline(site.registry.context, space.name)
    matrix = retention(site.registry.context, space.name, metric=metric, most=_MOST)
    return Page(
        template="retention.html",
        title=f"Retention of {space.name}",
        members={
            "space": space.summary,
            "metric": metric,
            "metrics": outline.metrics,
            "matrix": matrix,
            "drawing": retention_map(matrix) if matrix.rows else "",
            "is_whole": outline.tasks <= _MOST[0] and outline.commits <= _MOST[1],
        },
    )


def show_spectra(site: Site, request: Request) -> Page:
    """Show how the energy of a version spreads over directions."""
    space, ref = asked_version(site, request)
    spectra = [
        spectrum for spectrum in version_spectra(site.registry.context, ref) if spectrum.side == "a"
    ]
    return Page(
        template="spectra.html",
        title=f"Spectra of {ref}",
        members={
            "space": space,
            "ref": ref,
            "spectra": spectra,
            "drawing": directions_map(spectra) if spectra else "",
            "explained": spectrum_map(spectra, "a"),
        },
    )


def show_files(site: Site, request: Request) -> Page:
    """Show the files of a version, to be downloaded."""
    space, ref = asked_version(site, request)
    _, release = site.service.releases.resolve(ref)
    return Page(
        template="files.html",
        title=f"Files of {ref}",
        members={"space": space, "ref": ref, "release": release},
    )
