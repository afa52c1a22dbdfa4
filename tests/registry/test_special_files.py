"""Links, pipes, sockets and devices where files are expected: refused at once, never followed."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

import share_registry as sr
from tests.cli.tiny import write_adapter
from tests.house.tree import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has other special files")
TIMEOUT_S = 20
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def bind(path: Path) -> None:
    folder = Path.cwd()
    # the path of a socket is short
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)
    os.chdir(folder)


SPECIAL: Final[dict[str, Callable[[Path], object]]] = {"pipe": os.mkfifo, "socket": bind}
LINKS: Final[dict[str, Callable[[Path], object]]] = {
    "link to a file": lambda path: path.symlink_to(Path(__file__)),
    "link to a directory": lambda path: path.symlink_to(Path(__file__).parent),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
}
ALL: Final = SPECIAL | LINKS


@pytest.fixture(autouse=True)
def _watch() -> Iterator[None]:
    """Fail where something waits for ever, as whoever opens a pipe may."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIMEOUT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def adapter_with(tmp_path: Path, name: str, put: Callable[[Path], object]) -> Path:
    directory = write_adapter(tmp_path / "adapter", seed=1)
    (directory / name).unlink(missing_ok=True)
    put(directory / name)
    return directory


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
@pytest.mark.parametrize("kind", ALL)
def test_an_adapter_whose_file_is_none_is_refused(
    kind: str, name: str, registry: sr.Registry, tmp_path: Path
) -> None:
    directory = adapter_with(tmp_path, name, ALL[kind])
    for read in (registry.commit, registry.prepare, registry.identify):
        with pytest.raises(sr.InvalidInputError, match=r"regular file") as caught:
            read(directory)
        assert name in caught.value.message
        assert caught.value.hint
    report = registry.import_many([directory])
    assert report.refused == 1
    assert registry.spaces() == []


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_file_beside_the_two_is_not_kept(
    kind: str, registry: sr.Registry, tmp_path: Path
) -> None:
    directory = adapter_with(tmp_path, "extra", SPECIAL[kind])
    commit = registry.commit(directory, task="a")
    assert any("extra (no regular file)" in note for note in commit.reports["a"].notes)
    assert dict(registry.checkout("a").attachments) == {}


@pytest.mark.parametrize("kind", LINKS)
def test_a_link_beside_the_two_is_refused(kind: str, registry: sr.Registry, tmp_path: Path) -> None:
    directory = adapter_with(tmp_path, "extra", LINKS[kind])
    with pytest.raises(sr.InvalidInputError, match=r"extra is a symbolic link") as caught:
        registry.commit(directory, task="a")
    assert "cp -rL" in caught.value.hint


@pytest.mark.parametrize("kind", ALL)
def test_what_is_no_directory_is_no_adapter(
    kind: str, registry: sr.Registry, tmp_path: Path
) -> None:
    ALL[kind](tmp_path / "it")
    with pytest.raises((sr.InvalidInputError, sr.NotFoundError)) as caught:
        registry.commit(tmp_path / "it", task="a")
    assert caught.value.hint
    with pytest.raises((sr.InvalidInputError, sr.NotFoundError)):
        registry.import_many([], from_file=tmp_path / "it")


def test_an_adapter_behind_a_link_to_its_directory_is_read(
    registry: sr.Registry, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "adapter", seed=1)
    (tmp_path / "link").symlink_to("adapter")
    assert registry.commit(tmp_path / "link", task="a").created


@pytest.mark.parametrize("kind", sorted(ALL.keys() - {"link to a directory"}))
def test_nothing_is_exported_into_what_is_no_directory(
    kind: str, registry: sr.Registry, tmp_path: Path
) -> None:
    registry.commit(write_adapter(tmp_path / "adapter", seed=1), task="a")
    ALL[kind](tmp_path / "it")
    for overwrite in (False, True):
        with pytest.raises(sr.RefusedError, match=r"expected a directory") as caught:
            registry.export("a", tmp_path / "it", overwrite=overwrite)
        assert caught.value.hint
    with pytest.raises(sr.RefusedError, match=r"expected a directory"):
        registry.checkout("a").save(tmp_path / "it", overwrite=True)


@pytest.mark.parametrize("kind", ALL)
def test_an_export_never_writes_through_what_lies_in_its_place(
    kind: str, registry: sr.Registry, tmp_path: Path
) -> None:
    registry.commit(write_adapter(tmp_path / "adapter", seed=1), task="a")
    place = registry.export("a", tmp_path / "out").path
    (place / "README.md").unlink()
    ALL[kind](place / "README.md")
    before = Path(__file__).read_bytes()
    for overwrite in (False, True):
        with pytest.raises(sr.RefusedError):
            registry.export("a", tmp_path / "out", overwrite=overwrite)
    assert Path(__file__).read_bytes() == before


HOSTILE_CONFIG = {
    "auto_mapping": {"base_model_class": "Evil", "parent_library": "evil_library.inner"},
    "megatron_core": "evil_library",
    "tokenizer_kwargs": {"trust_remote_code": True, "name_or_path": "evil_library"},
    "_attn_implementation_internal": "evil_library/kernels",
    "runtime_config": {"module": "evil_library"},
    "custom_modules": "evil_library",
}
IMPORTS = """
import json, sys
from pathlib import Path
import share_registry as sr
from tests.cli.tiny import write_adapter

folder, fields = Path(sys.argv[1]), json.loads(sys.argv[2])
(folder / "evil_library").mkdir()
for name in ("__init__", "inner"):
    (folder / "evil_library" / f"{name}.py").write_text("raise SystemExit('imported')")
sys.path.insert(0, str(folder))
adapter = write_adapter(folder / "adapter", seed=1)
config = json.loads((adapter / "adapter_config.json").read_bytes())
(adapter / "adapter_config.json").write_text(json.dumps(config | fields))
events = []
forbidden = {"subprocess.Popen", "os.system", "os.exec", "socket.connect", "pickle.find_class"}

def watch(event, arguments):
    if event in forbidden or (event == "import" and "evil" in str(arguments[0])):
        events.append((event, str(arguments)[:80]))

sys.addaudithook(watch)
with sr.Registry.open(folder / "registry") as registry:
    registry.commit(adapter, task="a")
    registry.checkout("a").factor_pairs()
    registry.export("a", folder / "out")
    form = registry.export("a", folder / "portable", profile="portable").path
    registry.merge({"a": 0.5}, task="b")
    registry.similar("a")
    registry.verify("deep")
    with sr.Materializer(registry) as materializer:
        materializer.materialize(["a"])
exported = json.loads((form / "adapter_config.json").read_bytes())
assert "evil" not in json.dumps(exported), exported
assert events == [], events
assert "evil_library" not in sys.modules
"""


def test_what_a_config_names_is_never_imported_and_stands_in_no_portable_export(
    tmp_path: Path,
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(tmp_path), json.dumps(HOSTILE_CONFIG)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
