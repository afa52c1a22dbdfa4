"""What lies below a directory."""

from pathlib import Path

Tree = dict[str, tuple[int, bytes | None]]


def tree(root: Path) -> Tree:
    """Everything below a directory: mode and content."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() and not path.is_symlink() else None,
        )
        for path in root.rglob("*")
    }
