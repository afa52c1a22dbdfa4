"""The pages of a registry in this process, and what can be said of any page."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.testclient import TestClient

import share_registry as sr
from share_registry.http.server import ServeRequest
from share_registry.outside.files import Outside
from share_registry.ui.site import site_of
from tests.cli.evil import EVIL, LINES, MARKUP
from tests.cli.tiny import write_adapter

ADDRESS: Final = "http://127.0.0.1:8080"
LONG: Final = "a" + "-._0123456789" * 4 + "bcdefghijk"
"""A name of 63 characters with every kind of character that names have, and one more."""
NAME: Final = f"{LONG}z"
QUOTED: Final = "\"quoted\" 'single' <b>bold</b> {{7*7}} {% raw %} ${x}"


class Document(HTMLParser):
    """A page: its elements, the targets of its links, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._within: list[str] = []
        self.scripts = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self._within[-1:] or "style" in self._within[-1:]:
            self.scripts += data
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def links(self) -> list[str]:
        return [str(link["href"]) for link in self.all("a") if "href" in link]


def write_story(root: Path) -> Path:
    """Make a registry with something for every page to show; texts of strangers wherever one goes.

    cola has four versions, an alias that moved and was removed, a restored version and an older
    name; sst2 is merged; mrpc was dropped, qnli was expired in part.
    """
    said: dict[str, Any] = {
        "message": LINES.replace("\0", ""),
        "author": EVIL.replace("\0", ""),
        "labels": {MARKUP: LINES.replace("\0", ""), "team": QUOTED},
        "metrics": {f"acc{MARKUP}": 0.5, "acc": 0.25},
    }
    with sr.Registry.open(root / "registry") as registry:
        for seed, task in enumerate(("first", "first", NAME, "mrpc", "qnli", "qnli")):
            source = write_adapter(root / f"in{seed}", seed=seed)
            (source / QUOTED.replace("/", "")).write_bytes(b"attached")
            registry.commit(source, task=task, **said)
        registry.rename("first", "cola")
        registry.commit(write_adapter(root / "in9", seed=9), task="cola", metrics={"acc": 0.75})
        registry.set_alias("cola@v1", "prod", reason=QUOTED)
        registry.set_alias("cola@v2", "prod")
        registry.set_alias("cola@v2", "canary")
        registry.remove_alias("cola", "canary")
        registry.restore("cola@v1")
        registry.merge({"cola@v2": 0.5, f"{NAME}@v1": 0.5}, task="sst2")
        registry.tag("rc", "cola@v1", reason=QUOTED)
        registry.drop("mrpc")
        registry.expire(["qnli@v1"], dry_run=False)
        registry.refit(max_rank=2, force=True)
        registry.create_space("other", base_model=f"org/{QUOTED}", base_labels=[MARKUP])
    return root / "registry"


def damage_last_record(place: Path, space: str) -> None:
    """Damage the last record of a space, and remove the catalog that has it."""
    last = max((place / "spaces" / space / "log").glob("*.json"))
    last.chmod(0o600)
    last.write_bytes(b"rotten")
    for path in place.glob("catalog.sqlite*"):
        path.unlink()


@contextmanager
def looking_at(
    place: Path | str, *, outside: Outside | None = None, **options: Any
) -> Iterator[TestClient]:
    """Yield a client of the pages of a registry."""
    request = ServeRequest(
        **{
            "registry": place,
            "store": None,
            "space": None,
            "host": "127.0.0.1",
            "port": 8080,
            "token_file": None,
            **options,
        }
    )
    with ExitStack() as stack:
        app = stack.enter_context(site_of(request, outside or Outside()))
        yield stack.enter_context(TestClient(app, base_url=ADDRESS, raise_server_exceptions=False))


def shape(path: str) -> str:
    """Return a path without what names a task, a space or a commit, and the names in its query."""
    parts = urlsplit(path)
    steps = parts.path.split("/")
    query = sorted({pair.partition("=")[0] for pair in parts.query.split("&")})
    return "/".join(steps[:2]) + "/*" * (len(steps) - 2) + "?" + "&".join(query)


def walk(client: TestClient, *, most: int = 4) -> dict[str, tuple[Any, Document]]:
    """Follow every link from the first page on; of paths of one shape only the first few."""
    seen: dict[str, tuple[Any, Document]] = {}
    shapes: dict[str, int] = defaultdict(int)
    waiting = ["/"]
    while waiting:
        path = waiting.pop(0).partition("#")[0]
        if path in seen or not path or shapes[shape(path)] >= most:
            continue
        shapes[shape(path)] += 1
        answer = client.get(path)
        is_page = answer.headers.get("content-type", "").startswith("text/html")
        seen[path] = (answer, Document(answer.text if is_page else ""))
        waiting += seen[path][1].links
    return seen
