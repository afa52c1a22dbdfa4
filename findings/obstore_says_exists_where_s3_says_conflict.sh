#!/usr/bin/env bash
# obstore 0.12.1 (object_store 0.14.2): `put(mode="create")` raises AlreadyExistsError where S3
# answers 409 ConditionalRequestConflict. S3 gives that answer while another conditional write to the
# key is under way, and asks for the request again; the other write may fail, so that nothing is
# there. Whoever takes the error for "another writer was faster" gives a free name up, or reports a
# lost race that nobody won.
#
# Seen: AlreadyExistsError after one request, then FileNotFoundError for the same key; after the
# second request 200. Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install obstore==0.12.1
"$folder/venv/bin/python" - <<'PYTHON'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

ERROR = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>{0}</Message></Error>"
puts = []


class S3(BaseHTTPRequestHandler):
    """Answers as S3 does: the first conditional write meets another, the second does not."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        return

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        puts.append(self.headers.get("If-None-Match"))
        if len(puts) == 1:
            self.answer(409, ERROR.format("ConditionalRequestConflict").encode())
        else:
            self.answer(200)

    def do_GET(self):
        self.answer(404, ERROR.format("NoSuchKey").encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), S3)
threading.Thread(target=server.serve_forever, daemon=True).start()
store = S3Store(
    "bucket",
    endpoint=f"http://127.0.0.1:{server.server_address[1]}",
    access_key_id="key",
    secret_access_key="secret",
    region="us-east-1",
    client_options={"allow_http": True},
)
seen = []
for request in (lambda: store.put("a", b"1", mode="create"), lambda: store.get("a")):
    try:
        request()
        seen.append("done")
    except (AlreadyExistsError, FileNotFoundError) as error:
        seen.append(type(error).__name__)
store.put("a", b"1", mode="create")
print(f"first write: {seen[0]}, then reading: {seen[1]}; writes asked for: {puts}")
assert seen == ["AlreadyExistsError", "FileNotFoundError"], seen
assert puts == ["*", "*"], puts
PYTHON
