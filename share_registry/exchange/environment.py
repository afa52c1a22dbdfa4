"""What the environment says of a commit: its author, and labels of source revision and CI run."""

import re
from contextlib import suppress
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
# Who started a run, as CI systems say it
_ACTORS: Final = (
    "GITHUB_ACTOR",
    "GITLAB_USER_LOGIN",
    "BUILDKITE_BUILD_CREATOR",
    "CIRCLE_USERNAME",
    "BUILD_REQUESTEDFOR",
    "BUILD_USER_ID",
)
_MAX_VALUE: Final = 256
_MAX_GIT_FILE: Final = 1 << 24
# A section of a git config, and user.name in it
_SECTION: Final = re.compile(r"\s*\[\s*([\w.-]+)\s*(\".*\")?\s*\]")
_NAME: Final = re.compile(r"\s*name\s*=\s*(?:\"([^\"]*)\"|([^#;]*))", re.IGNORECASE)
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


def default_author(outside: Outside) -> str | None:
    """Return who a record is by where nobody says so; never an error.

    $SHARE_REGISTRY_AUTHOR (set and empty: nobody), whoever started the CI run, git's user.name, the
    user of the operating system.
    """
    own = outside.environment("SHARE_REGISTRY_AUTHOR")
    if own is not None:
        return _clean(own) or None
    sources = (
        *(lambda name=name: outside.environment(name) for name in _ACTORS),
        lambda: outside.environment("GIT_AUTHOR_NAME"),
        lambda: _read_git_name(outside),
        outside.user,
    )
    return next(filter(None, (_clean(source() or "") for source in sources)), None)


def _clean(text: str) -> str:
    """Return a name as UTF-8 can hold it, without what is no text, cut to what a note takes."""
    text = text.encode(errors="replace").decode()
    return "".join(filter(str.isprintable, text)).strip()[:_MAX_VALUE]


def _read_git_name(outside: Outside) -> str | None:
    """Read user.name from git's own files, the working tree's before the user's.

    Files that these include are not followed.
    """
    home = outside.environment("HOME") or outside.environment("USERPROFILE") or ""
    folder = outside.environment("XDG_CONFIG_HOME") or f"{home}/.config"
    files = [Path(home, ".gitconfig"), Path(folder, "git", "config")]
    with suppress(ShareRegistryError, UnicodeDecodeError):
        if git := _find_git(outside):
            files.insert(0, _common(git, outside) / "config")
    for path in files:
        with suppress(ShareRegistryError, UnicodeDecodeError):
            if path.is_absolute() and (name := _user_name(_read_text(path, outside))):
                return name
    return None


def _user_name(config: str) -> str:
    """Return the last user.name of a git config."""
    section = name = ""
    for line in config.splitlines():
        if match := _SECTION.match(line):
            section, line = match[1].lower() + (match[2] or ""), line[match.end() :]
        if section == "user" and (match := _NAME.match(line)):
            name = (match[1] if match[1] is not None else match[2]).strip()
    return name


def _read_git_sha(outside: Outside) -> str | None:
    """Read what HEAD of the surrounding git working tree names.

    The files are read and no git is run: it may be missing, and a repository that somebody else
    wrote can make it run what it likes.
    """
    try:
        git = _find_git(outside)
        return _read_head(git, outside) if git is not None else None
    except (ShareRegistryError, UnicodeDecodeError):
        return None


def _find_git(outside: Outside) -> Path | None:
    """Return the git directory of the surrounding working tree, None where there is none."""
    here = outside.absolute(Path())
    for folder in (here, *here.parents):
        kind = outside.kind(folder / ".git")
        # a linked working tree or a submodule
        if kind is Kind.FILE:
            pointer = _read_text(folder / ".git", outside)
            return folder / pointer.removeprefix("gitdir: ")
        if kind is not None:
            return folder / ".git"
    return None


def _read_head(git: Path, outside: Outside) -> str | None:
    """Return the commit that HEAD names, by itself or through a loose or packed reference."""
    head = _read_text(git / "HEAD", outside)
    reference = _REF.fullmatch(head)
    shas = [head]
    if reference is not None:
        shared = _common(git, outside)
        if outside.exists(shared / reference[1]):
            shas = [_read_text(shared / reference[1], outside)]
        else:
            packed = _read_text(shared / "packed-refs", outside).splitlines()
            shas = [line.split()[0] for line in packed if line.endswith(f" {reference[1]}")]
    return next(filter(_SHA.fullmatch, shas), None)


def _common(git: Path, outside: Outside) -> Path:
    """Return the git directory that a linked working tree shares with the others."""
    linked = git / "commondir"
    return git / _read_text(linked, outside) if outside.exists(linked) else git


def _read_text(path: Path, outside: Outside) -> str:
    return outside.read(path, limit=_MAX_GIT_FILE).decode().strip()
