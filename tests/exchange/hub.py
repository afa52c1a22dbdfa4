"""A small stand-in for the Hub's file endpoints.

Repositories are directories, each revision a commit.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Hub:
    """Repositories with their commits, what branches name, and what was asked for.

    Attributes:
        commits: (repository, commit) -> files.
        branches: (repository, branch) -> commit.
        asked: Paths of all requests.
        failing: Answer every request with this status.
    """

    commits: dict[tuple[str, str], Files] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    failing: int | None = None
    endpoint: str = ""

    def push(self, repository: str, files: Files, branch: str = "main") -> str:
        """Add a commit to a branch; return its hash."""
        commit = hashlib.sha1(
            repr(sorted(files.items())).encode(), usedforsecurity=False
        ).hexdigest()
        self.commits[repository, commit] = files
        self.branches[repository, branch] = commit
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """Return the commit a revision names, and its files."""
        commit = self.branches.get((repository, revision), revision)
        files = self.commits.get((repository, commit))
        return None if files is None else (commit, files)


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub on this machine."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's output clean."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.served.asked.append(f"{self.command} /{'/'.join(path)}")
        if self.served.failing is not None:
            self._send(self.served.failing, b"", {})
        elif path[:2] == ["api", "models"]:
            self._model("/".join(path[2:4]), path[5] if path[4:5] == ["revision"] else "main")
        else:
            self._file("/".join(path[:2]), path[3], "/".join(path[4:]))

    def _model(self, repository: str, revision: str) -> None:
        pushed = self.served.find(repository, revision)
        if pushed is None:
            is_repository = any(name == repository for name, _ in self.served.commits)
            self._send(
                404,
                b"{}",
                {"X-Error-Code": "RevisionNotFound" if is_repository else "RepoNotFound"},
            )
            return
        commit, files = pushed
        siblings = [
            {"rfilename": name, "size": len(content)} for name, content in sorted(files.items())
        ]
        self._send(
            200,
            json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode(),
            {"Content-Type": "application/json"},
        )

    def _file(self, repository: str, revision: str, name: str) -> None:
        pushed = self.served.find(repository, revision)
        if pushed is None or name not in pushed[1]:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        commit, files = pushed
        self._send(
            200,
            files[name],
            {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(files[name]).hexdigest()}"'},
        )

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
