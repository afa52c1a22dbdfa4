"""What each good store says: the state of its space, as the reference reader follows the log."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spec.reader import Store
from spec.tiny import SPACE


def state_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the state of a store that is given as files by path."""
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        state = Store(folder).log(SPACE)
    return {
        "head": len(state.commits),
        "id": state.commits[-1][0],
        "tags": state.tags,
        "tasks": {task.name: _task(task) for task in state.tasks.values()},
    }


def _task(task: Any) -> dict[str, Any]:
    moves = {alias: versions[-1] for alias, versions in task.aliases.items()}
    return {
        "live": task.live,
        "aliases": {alias: version for alias, version in moves.items() if version},
        "versions": [
            {name: version[name] for name in ("number", "adapter", "error", "tensors")}
            | ({"removed": version["removed"]} if "removed" in version else {})
            for version in task.versions
        ],
    }
