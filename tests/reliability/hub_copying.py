"""A registry to be copied to the Hub, and what is looked at of its copies there."""

import io
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Final

from share_registry.cli.main import main
from share_registry.values.transfers import TransferReport
from tests.exchange.hub_state import Files, Hub
from tests.reliability.registries import opened

TOKEN: Final = "hf_ofAnnWhoMayWrite0123456789"
READER: Final = "hf_ofBobWhoMayRead0123456789"
REPO: Final = "ann/registry"
PLACE: Final = f"hf://{REPO}"


def push(root: Path, *, dry_run: bool = False) -> TransferReport:
    with opened(root, mode="r") as registry:
        return registry.push(PLACE, dry_run=dry_run)


def pull(root: Path) -> TransferReport:
    with opened(root, mode="w") as registry:
        return registry.pull(PLACE)


def kept(hub: Hub, repository: str = REPO, branch: str = "main", folder: str = "") -> Files:
    """Return the files of a copy, without what the Hub puts beside it and the heads."""
    return {
        name.removeprefix(folder): content
        for name, content in hub.files(repository, branch).items()
        if name != ".gitattributes" and not name.startswith(f"{folder}catalog")
    }


def commits(hub: Hub) -> int:
    return sum(asked.startswith("POST ") and "/commit/" in asked for asked in hub.asked)


def committing(hub: Hub, *commits: Callable[[], object]) -> None:
    """Have others commit, each before one of the next commits is looked at."""
    pending = list(commits)
    lock = threading.Lock()

    def before() -> None:
        with lock:
            commit = pending.pop(0) if pending else None
        if commit is not None:
            commit()

    hub.before_commit = before


def changed(hub: Hub, name: str, content: bytes) -> None:
    hub.push(REPO, hub.files(REPO) | {name: content}, title="somebody's")


def run(*arguments: str | Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*map(str, arguments)])
    return code, out.getvalue(), err.getvalue()
