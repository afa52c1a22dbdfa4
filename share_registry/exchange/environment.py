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
_REF: Final = re.compile(r"ref: (refs/[\w./-]+)")


def environment_labels(outside: Outside) -> dict[str, str]:
    """Return the labels found; the working directory's git commit where no variable names one.

    Never an error.
    """
    labels = {}
    for label, variables in _VARIABLES.items():
        value = next(
            (text for name in variables if (text := (outside.environment(name) or "").strip())), ""
        )
        if value and len(value) <= _MAX_VALUE and value.isprintable():
            labels[label] = value
    if "git.sha" not in labels and (sha := _git_sha(outside)):
        labels["git.sha"] = sha
    return dict(sorted(labels.items()))


def _git_sha(outside: Outside) -> str | None:
    """Read what HEAD of the surrounding git working tree names, without running git."""
    here = outside.absolute(Path())
    try:
        for folder in (here, *here.parents):
            kind = outside.kind(folder / ".git")
            if kind is not None:
                return _head(folder / ".git", kind, outside)
    except (ShareRegistryError, UnicodeDecodeError):
        return None
    return None


def _head(git: Path, kind: Kind, outside: Outside) -> str | None:
    if kind is Kind.FILE:  # a linked working tree or a submodule
        git = git.parent / _text(git, outside).removeprefix("gitdir: ")
    head = _text(git / "HEAD", outside)
    if _SHA.fullmatch(head):
        return head
    match = _REF.fullmatch(head)
    if match is None or ".." in match[1]:
        return None
    shared = git / _text(git / "commondir", outside) if outside.exists(git / "commondir") else git
    if outside.exists(shared / match[1]):
        found = _text(shared / match[1], outside)
        return found if _SHA.fullmatch(found) else None
    packed = (
        _text(shared / "packed-refs", outside).splitlines()
        if outside.exists(shared / "packed-refs")
        else []
    )
    return next(
        (
            line.split()[0]
            for line in packed
            if line.endswith(f" {match[1]}") and _SHA.fullmatch(line.split()[0])
        ),
        None,
    )


def _text(path: Path, outside: Outside) -> str:
    return outside.read(path, limit=_MAX_GIT_FILE).decode().strip()
