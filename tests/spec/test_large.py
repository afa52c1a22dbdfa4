"""Small stores that ask for much are refused in a moment, as too large and not as damaged."""

import subprocess
import sys
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.values.checks import Outcome
from tests.house.tree import ROOT
from tests.spec import readers
from tests.spec.readers import VECTORS, reference

BOMBS = sorted((VECTORS / "bad").glob("DEC-13-*.store.zip"))
MOST_BYTES = 256 << 20
"""Beside what the interpreter and its libraries take."""
MOST_S = 1.0
"""Of processor time, beside the imports."""
MEASURE = """
import resource, sys, time
{imports}
before = resource.getrusage(resource.RUSAGE_SELF)
try:
    {statement}
except {error} as error:
    assert "spend" in str(error), error
else:
    raise SystemExit("not refused")
after = resource.getrusage(resource.RUSAGE_SELF)
print((after.ru_maxrss - before.ru_maxrss) * 1024, after.ru_utime - before.ru_utime)
"""
STATEMENTS = {
    "library": {
        "imports": "import share_registry as sr\n"
        "import share_registry.exchange.export_files, share_registry.registry.audit.verify\n"
        "registry = sr.Registry.open(sys.argv[1], mode='r')\nregistry.checkout('cola@v1')",
        "statement": "registry.verify('deep', raise_on_damage=False)\n"
        "    registry.export('zeros@v1', sys.argv[2])",
        "error": "sr.RefusedError",
    },
    "reference": {
        "imports": f"sys.path.insert(0, {str(ROOT)!r})\nimport spec.reader as reader",
        "statement": "s = reader.Store(sys.argv[1]); reader.export(s, s.log('tiny').tasks['zeros'].versions[0])",
        "error": "reader.LargeError",
    },
}


@pytest.mark.parametrize("bomb", BOMBS, ids=[path.name[7:-10] for path in BOMBS])
@pytest.mark.parametrize("reader", STATEMENTS)
def test_a_small_bomb_is_refused_within_a_second_and_256_mib(
    tmp_path: Path, bomb: Path, reader: str
) -> None:
    root = readers.unpack(bomb, tmp_path / "store")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE.format(**STATEMENTS[reader]), root, tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    grown_bytes, taken_s = map(float, run.stdout.split())
    assert grown_bytes < MOST_BYTES
    assert taken_s < MOST_S


@pytest.mark.parametrize("bomb", BOMBS, ids=[path.name[7:-10] for path in BOMBS])
def test_what_is_too_large_is_not_damaged_and_the_rest_is_read(tmp_path: Path, bomb: Path) -> None:
    root = readers.unpack(bomb, tmp_path / "store")
    with sr.Registry.open(root, mode="r") as registry:
        report = registry.verify("deep", raise_on_damage=False)
        assert {(item.outcome, item.refs) for item in report.findings} == {
            (Outcome.LARGE, ("tiny/zeros@v1",))
        }
        sound = readers.export_by_library(registry, "tiny/cola@v1", tmp_path / "out")
    store = reference.Store(root)
    files = reference.export(store, store.log("tiny").tasks["cola"].versions[0])
    assert {name: sound[name] for name in files} == files
