"""A stand-in for the Hub: what its client asks of it to read and to write repositories.

Repositories are commits with files; branches name commits. The client of huggingface_hub runs
against it unchanged. What it answers was checked against the source of huggingface_hub 2.4.0:

- `HfApi.model_info`, `dataset_info`, `hf_hub_download`, `hf_hub_url`: siblings, `X-Repo-Commit`,
  `ETag`; data sets under `api/datasets/` and `datasets/`.
- `HfApi.list_repo_refs`, `create_branch`, `create_repo` (409 where it is there, 401 and 403 where a
  token lacks the right; `visibility` in the payload).
- `HfApi.list_repo_tree`, `_iter_repo_tree_pages` and `paginate`: `oid`, `size`, `lfs`, with `expand`
  `lastCommit`, with `recursive` what is in folders; the next page in the header `Link` (the Hub's has
  50 entries with `expand`, else 1000); `EntryNotFound` for a folder that is not there.
- `HfApi._validate_yaml`: the card's front matter, errors and status 400.
- `HfApi.preupload_lfs_files` and `_fetch_upload_modes`: `uploadMode`, `shouldIgnore` by the
  `.gitignore` of the repository unless `gitIgnore` is sent, the present `oid`; 256 files a request.
  Which files the Hub keeps by LFS is its own affair: those that `.gitattributes` names, and binary
  ones, are here.
- `lfs.post_lfs_batch_info`, `lfs_upload`, `_upload_single_part`, the step `verify`: an object that
  is there has no actions; the address of an upload is signed.
- `_commit_api._upload_xet_files` and `_xet.xet_connection_info_refresh_url`: where hf_xet is
  installed, LFS is not asked, but the address of a token for another server. What hf_xet 1.8.0 asks
  of that was seen, not read: a chunk that others may have, a grant for each packet (an empty answer
  says that it is there), a shard that ends in a frame `result`, telemetry. So no bytes arrive here:
  `stored` must have them.
- `HfApi.create_commit`, `_prepare_commit_payload`, `_send_commit`: lines of JSON, `parentCommit`;
  412 where the branch is elsewhere.
- `utils._http.hf_raise_for_status`: `X-Error-Code`, `X-Error-Message`, which status is which error,
  and `http_backoff`: 5xx is asked again, except for a commit. `RepoNotFound` also for a private
  repository, `GatedRepo` for one whose files ask for access.
- `utils._http.default_client_factory`: no time limit, so one that the session is given holds.
- `_upload_pipeline`: 250 files a commit at first and 1000 at most, since the Hub gives up on a commit
  that takes a minute.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.exchange.hub_state import ATTRIBUTES, Hub, blob_id, is_large

# Entries of a page of a listing with who changed them, and without
PAGE = 2
PLAIN_PAGE = 20


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub on this machine."""
    hub = Hub()

    class Handler(_Writing):
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


class _Reading(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"
    # an answer is two packets: the second must not wait for the first to be acknowledged
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""

    def _answer(self) -> None:
        # a body that is not read would be the next request of the connection
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        path = [unquote(part) for part in address.path.strip("/").split("/")]
        asked = f"{self.command} /{'/'.join(path)}"
        self.served.asked.append(asked)
        self.served.tokens_sent.add(self.headers.get("Authorization"))
        instead = [each for begin, each in self.served.answers.items() if asked.startswith(begin)]
        refused_from = self.served.failing_from
        if refused_from is not None and len(self.served.asked) > refused_from:
            self._refuse(403, "no more")
        elif self.served.failing is not None:
            self._send(self.served.failing, b"", {})
        elif instead:
            self._refuse(*instead[0])
        else:
            self._route(path, parse_qs(address.query))

    def _route(self, path: list[str], query: dict[str, list[str]]) -> None:
        repository = "/".join(path[2:4])
        if path[:2] == ["api", "datasets"]:
            repository = f"datasets/{repository}"
        if path[0] == "datasets":
            self._file("/".join(path[:3]), path[4], "/".join(path[5:]))
        elif path[0] != "api":
            self._file("/".join(path[:2]), path[3], "/".join(path[4:]))
        elif not self._may_see(repository):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path[4:5] == ["refs"]:
            self._refs(repository)
        elif path[4:5] == ["tree"]:
            self._tree(repository, path[5], "/".join(path[6:]), query)
        else:
            self._model(repository, path[5] if path[4:5] == ["revision"] else "main")

    def _owners(self) -> set[str]:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return self.served.tokens.get(token, set())

    def _may_see(self, repository: str) -> bool:
        return repository not in self.served.private or repository.split("/")[-2] in self._owners()

    def _model(self, repository: str, revision: str) -> None:
        pushed = self.served.find(repository, revision)
        if pushed is None:
            self._missing(repository)
            return
        commit, files = pushed
        siblings = [
            {"rfilename": name, "size": len(content)} for name, content in sorted(files.items())
        ]
        self._json({"id": repository, "sha": commit, "siblings": siblings})

    def _refs(self, repository: str) -> None:
        if not self.served.is_repository(repository):
            self._missing(repository)
            return
        kinds = {"branches": self.served.branches, "tags": self.served.tags}
        self._json(
            {
                "converts": [],
                **{
                    kind: [
                        {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
                        for (owner, name), commit in references.items()
                        if owner == repository
                    ]
                    for kind, references in kinds.items()
                },
            }
        )

    def _tree(
        self, repository: str, revision: str, folder: str, query: dict[str, list[str]]
    ) -> None:
        commit, files = self.served.find(repository, revision) or ("", {})
        prefix = f"{folder}/" if folder else ""
        below = [name for name in sorted(files) if name.startswith(prefix)]
        if folder and not below:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        titles = self.served.titles[repository, commit]
        folders = {f"{prefix}{name.removeprefix(prefix).split('/')[0]}" for name in below}
        if query.get("recursive", ["false"]) != ["false"]:
            folders |= {*below}
        size = PAGE if query.get("expand", ["false"]) != ["false"] else PLAIN_PAGE
        entries = [
            _entry(name, files[name], titles[name])
            if name in files
            else {"type": "directory", "path": name, "oid": "0" * 40}
            for name in sorted(folders)
        ]
        start = int(query.get("cursor", ["0"])[0])
        more = f"<{self.served.endpoint}{self.path.split('&cursor')[0]}&cursor={start + size}>"
        self._json(
            entries[start : start + size],
            {"Link": f'{more}; rel="next"'} if start + size < len(entries) else {},
        )

    def _file(self, repository: str, revision: str, name: str) -> None:
        pushed = self.served.find(repository, revision)
        if pushed is None or name not in pushed[1]:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if repository in self.served.gated and repository.split("/")[-2] not in self._owners():
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
            return
        commit, files = pushed
        self._send(
            200,
            files[name],
            {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(files[name]).hexdigest()}"'},
        )

    def _missing(self, repository: str) -> None:
        kind = "RevisionNotFound" if self.served.is_repository(repository) else "RepoNotFound"
        self._send(404, b"{}", {"X-Error-Code": kind})

    def _refuse(self, status: int, message: str) -> None:
        self._json({"error": message}, {"X-Error-Message": message}, status=status)

    def _json(
        self, value: object, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        content = {"Content-Type": "application/json"}
        self._send(status, json.dumps(value).encode(), content | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        # who asked may wait no longer
        with suppress(ConnectionError):
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)


class _Writing(_Reading):
    """What writes; whoever asks must have the right to."""

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _route(self, path: list[str], query: dict[str, list[str]]) -> None:
        if path[0] == "stored":
            self._store(path[1])
        elif path[0] in ("v1", "v2"):
            self._xet(path[1])
        elif path[:2] == ["api", "validate-yaml"]:
            self._check_card()
        elif path[:3] == ["api", "repos", "create"]:
            self._create(json.loads(self.body))
        elif self.command == "POST" and path[2:] == ["info", "lfs", "objects", "batch"]:
            self._batch(f"{path[0]}/{path[1].removesuffix('.git')}")
        elif self.command == "POST" and path[3:] == ["info", "lfs", "objects", "batch"]:
            self._batch(f"datasets/{path[1]}/{path[2].removesuffix('.git')}")
        elif self.command == "POST" or path[4:5] == ["xet-write-token"]:
            kind = "datasets/" if path[1] == "datasets" else ""
            self._change(f"{kind}{'/'.join(path[2:4])}", path[4], path[5])
        else:
            super()._route(path, query)

    def _may_write(self, owner: str) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in self.served.tokens:
            self._refuse(401, "Invalid username or password.")
            return False
        if owner not in self._owners():
            self._refuse(403, "You have read access but not the required permissions")
            return False
        return True

    def _create(self, asked: dict[str, Any]) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        if asked.get("type") == "dataset":
            repository = f"datasets/{repository}"
        if not self._may_write(asked["organization"]):
            return
        if self.served.is_repository(repository):
            self._refuse(409, "You already created this model repo")
            return
        self.served.visibility[repository] = asked.get("visibility")
        self.served.push(repository, {".gitattributes": ATTRIBUTES}, title="initial commit")
        self._json({"url": f"{self.served.endpoint}/{repository}"})

    def _check_card(self) -> None:
        content = json.loads(self.body)["content"]
        if 'base_model: "/' in content:
            error = {"message": '"base_model" with value "/..." is not valid. Use a model id.'}
            self._json({"errors": [error], "warnings": []}, status=400)
        else:
            self._json({"errors": [], "warnings": []})

    def _change(self, repository: str, verb: str, revision: str) -> None:
        """Do what changes a repository: by `verb`, at a branch."""
        if not self._may_write(repository.split("/")[-2]):
            return
        if verb == "branch":
            start = self.served.branches[repository, "main"]
            self.served.branches[repository, revision] = start
            self._send(201, b"{}", {})
        elif verb == "preupload":
            self._preupload(repository, revision)
        elif verb == "commit":
            self._commit(repository, revision)
        elif self.served.xet is None:
            self._refuse(404, "no xet here")
        else:
            # seconds since 1970: far from now
            token = {"accessToken": "xet", "exp": 1 << 33, "casUrl": self.served.endpoint}
            self._json(token)

    def _xet(self, verb: str) -> None:
        if verb == "chunks":
            self._refuse(404, "no such chunk")
        else:
            self._json({"type": self.served.xet} if verb == "shards" else {})

    def _preupload(self, repository: str, branch: str) -> None:
        asked = json.loads(self.body)
        present = self.served.files(repository, branch)
        ignored = asked.get("gitIgnore", present.get(".gitignore", b"").decode()).split()
        self._json(
            {
                "files": [
                    {
                        "path": path,
                        "uploadMode": "lfs" if is_large(path, sample) else "regular",
                        "shouldIgnore": path in ignored,
                        **({"oid": _oid(path, present[path])} if path in present else {}),
                    }
                    for path, sample in (
                        (file["path"], base64.b64decode(file["sample"])) for file in asked["files"]
                    )
                ]
            }
        )

    def _batch(self, repository: str) -> None:
        if not self._may_write(repository.split("/")[-2]):
            return
        asked = json.loads(self.body)
        assert (asked["operation"], asked["hash_algo"]) == ("upload", "sha256")
        signed = f"{self.served.endpoint}/stored"
        self._json(
            {
                "transfer": "basic",
                "objects": [
                    {
                        **each,
                        **(
                            {}
                            if each["oid"] in self.served.stored
                            else {
                                "actions": {
                                    "upload": {
                                        "href": f"{signed}/{each['oid']}?X-Signature=s3cr3t"
                                    },
                                    "verify": {"href": f"{signed}/verify"},
                                }
                            }
                        ),
                    }
                    for each in asked["objects"]
                ],
            }
        )

    def _store(self, name: str) -> None:
        if name == "verify":
            asked = json.loads(self.body)
            is_there = len(self.served.stored.get(asked["oid"], b"")) == asked["size"]
            self._send(200 if is_there else 404, b"{}", {})
            return
        # an address that is signed needs no token, and takes none
        assert self.headers.get("Authorization") is None
        assert hashlib.sha256(self.body).hexdigest() == name
        self.served.stored[name] = self.body
        self.served.received.append(name)
        self._send(200, b"", {})

    def _commit(self, repository: str, branch: str) -> None:
        self.served.before_commit()
        header, *changes = (json.loads(line) for line in self.body.splitlines())
        said = header["value"]
        parent = self.served.branches[repository, branch]
        if said.get("parentCommit") not in (None, parent):
            self._refuse(412, "A commit has happened since. Please refresh and try again.")
            return
        files = dict(self.served.commits[repository, parent])
        for change in changes:
            path = change["value"]["path"]
            if change["key"] == "deletedFile":
                del files[path]
                continue
            content = (
                self.served.stored[change["value"]["oid"]]
                if change["key"] == "lfsFile"
                else base64.b64decode(change["value"]["content"])
            )
            kept = self.served.corrupting(path, content)
            if kept is not None:
                files[path] = kept
        commit = self.served.push(repository, files, branch, title=said["summary"])
        self.served.messages[repository, commit] = (said["summary"], said["description"])
        url = f"{self.served.endpoint}/{repository}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url})


def _oid(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_large(path, content) else blob_id(content)


def _entry(path: str, content: bytes, title: str) -> dict[str, object]:
    large = {
        "lfs": {"oid": _oid(path, content), "size": len(content), "pointerSize": 130},
        "oid": "1" * 40,
    }
    return {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": blob_id(content),
        "lastCommit": {"id": "2" * 40, "title": title, "date": "2026-01-01T00:00:00.000Z"},
        **(large if is_large(path, content) else {}),
    }
