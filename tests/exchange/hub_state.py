"""What a stand-in for the Hub keeps: repositories with their commits, and what was asked for."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields

Files = dict[str, bytes]
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class Hub:
    """Repositories with their commits, what branches name, and what was asked for.

    Attributes:
        commits: (repository, commit) -> files.
        branches: (repository, branch) -> commit.
        tags: (repository, tag) -> commit.
        titles: (repository, commit) -> path -> title of the commit that changed it last.
        messages: (repository, commit) -> title and description.
        visibility: Of repositories that were created.
        private: Repositories that only who may write them sees.
        gated: Repositories whose files only who may write them gets.
        tokens: Token -> owners whose repositories it may write.
        asked: Paths of all requests.
        tokens_sent: Every `Authorization` that was sent.
        stored: Large files by sha256.
        received: Those that were sent, in order.
        xet: The kind of frame in which the server of hf_xet ends; None where there is no such server.
        failing: Answer every request with this status.
        failing_from: Refuse every request from the one of this number on.
        answers: Beginning of "METHOD /path" -> status and what is said, in place of the answer.
        before_commit: Called before a commit is looked at.
        corrupting: What is done to the bytes of a file when it is committed.
    """

    commits: dict[tuple[str, str], Files] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    titles: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    messages: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    visibility: dict[str, str | None] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    tokens: dict[str, set[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens_sent: set[str | None] = field(default_factory=set)
    stored: dict[str, bytes] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)
    xet: str | None = None
    failing: int | None = None
    failing_from: int | None = None
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    before_commit: Callable[[], object] = lambda: None
    corrupting: Callable[[str, bytes], bytes | None] = lambda _, content: content
    endpoint: str = ""

    def clear(self) -> None:
        """Forget everything but where it is."""
        for each in fields(self):
            if each.name != "endpoint":
                fresh = each.default_factory() if callable(each.default_factory) else each.default
                setattr(self, each.name, fresh)

    def push(
        self, repository: str, files: Files, branch: str = "main", title: str = "by hand"
    ) -> str:
        """Add a commit to a branch; return its hash."""
        parent = self.branches.get((repository, branch))
        before = self.commits.get((repository, parent or ""), {})
        titles = self.titles.get((repository, parent or ""), {})
        commit = hashlib.sha1(
            repr((parent, title, sorted(files.items()))).encode(), usedforsecurity=False
        ).hexdigest()
        self.commits[repository, commit] = files
        self.titles[repository, commit] = {
            name: titles[name] if before.get(name) == content else title
            for name, content in files.items()
        }
        self.branches[repository, branch] = commit
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """Return the commit a revision names, and its files."""
        commit = self.branches.get((repository, revision), revision)
        files = self.commits.get((repository, commit))
        return None if files is None else (commit, files)

    def files(self, repository: str, branch: str = "main") -> Files:
        """Return the files that a branch has."""
        return self.commits[repository, self.branches[repository, branch]]

    def is_repository(self, repository: str) -> bool:
        return any(name == repository for name, _ in self.commits)


def blob_id(content: bytes) -> str:
    """Return git's name of a file's bytes."""
    return hashlib.sha1(
        f"blob {len(content)}\0".encode() + content, usedforsecurity=False
    ).hexdigest()


def is_large(path: str, sample: bytes) -> bool:
    """Tell whether a file is kept by LFS, by its name and the first of its bytes."""
    return path.endswith(".safetensors") or b"\0" in sample[:512]
