"""Labels that the environment of a commit gives: source revision, CI run, experiment trackers."""

import re
from pathlib import Path
from typing import Final

from share_registry.errors import ShareRegistryError
from share_registry.outside.files import Kind, Outside

_VARIABLES: Final = {
    "git.sha": (
        "GIT_COMMIT",
        "GITHUB_SHA",
        "CI_COMMIT_SHA",
        "BUILDKITE_COMMIT",
        "CIRCLE_SHA1",
        "BUILD_SOURCEVERSION",
    ),
    "ci.run": (
        "GITHUB_RUN_ID",
        "CI_JOB_ID",
        "CI_PIPELINE_ID",
        "BUILDKITE_BUILD_ID",
        "CIRCLE_WORKFLOW_ID",
        "BUILD_BUILDID",
        "BUILD_TAG",
    ),
    "mlflow.run_id": ("MLFLOW_RUN_ID",),
    "wandb.run": ("WANDB_RUN_ID",),
}
_MAX_VALUE: Final = 256
_MAX_GIT_FILE: Final = 1 << 24
_SHA: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_REF: Final = re.compile(r"ref: (refs/(?!.*\.\.)[\w./-]+)")


def environment_labels(outside: Outside) -> dict[str, str]:
    """Return the labels that the environment gives; never an error.

    Where no variable names a git commit, it is that of the working directory.
    """
    labels = {}
    for label, variables in _VARIABLES.items():
        texts = ((outside.environment(name) or "").strip() for name in variables)
        value = next(filter(None, texts), "")
        if value and len(value) <= _MAX_VALUE and value.isprintable():
            labels[label] = value
    if "git.sha" not in labels and (sha := _read_git_sha(outside)):
        labels["git.sha"] = sha
    return dict(sorted(labels.items()))


def _read_git_sha(outside: Outside) -> str | None:
    """Read what HEAD of the surrounding git working tree names.

    The files are read and no git is run: it may be missing, and a repository that somebody else
    wrote can make it run what it likes.
    """
    here = outside.absolute(Path())
    try:
        for folder in (here, *here.parents):
            kind = outside.kind(folder / ".git")
            # a linked working tree or a submodule
            if kind is Kind.FILE:
                pointer = _read_text(folder / ".git", outside)
                return _read_head(folder / pointer.removeprefix("gitdir: "), outside)
            if kind is not None:
                return _read_head(folder / ".git", outside)
    except (ShareRegistryError, UnicodeDecodeError):
        pass
    return None


def _read_head(git: Path, outside: Outside) -> str | None:
    """Return the commit that HEAD names, by itself or through a loose or packed reference."""
    head = _read_text(git / "HEAD", outside)
    reference = _REF.fullmatch(head)
    shas = [head]
    if reference is not None:
        linked = git / "commondir"
        shared = git / _read_text(linked, outside) if outside.exists(linked) else git
        if outside.exists(shared / reference[1]):
            shas = [_read_text(shared / reference[1], outside)]
        else:
            packed = _read_text(shared / "packed-refs", outside).splitlines()
            shas = [line.split()[0] for line in packed if line.endswith(f" {reference[1]}")]
    return next(filter(_SHA.fullmatch, shas), None)


def _read_text(path: Path, outside: Outside) -> str:
    return outside.read(path, limit=_MAX_GIT_FILE).decode().strip()
