"""The script of docs/importing.md, as a queue runs it: the same as committing one by one."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import share_registry as sr
from tests.house.tree import ROOT
from tests.registry.planted import write_planted

SCRIPT = re.compile(r"^<!-- import_job.py -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_jobs_prepare_and_a_last_one_publishes(tmp_path: Path) -> None:
    script = SCRIPT.findall((ROOT / "docs" / "importing.md").read_text(encoding="utf-8"))[0]
    (tmp_path / "import_job.py").write_text(script, encoding="utf-8")
    folders = write_planted(tmp_path / "all", 6, modules=2, width=64)
    (tmp_path / "adapters").mkdir()
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.commit(folders.pop("t00"))
    for name, folder in folders.items():
        folder.rename(tmp_path / "adapters" / name)
    (tmp_path / "adapters" / "broken").mkdir()
    environment = os.environ | {
        "SHARE_REGISTRY_URI": str(tmp_path / "registry"),
        "ADAPTERS": str(tmp_path / "adapters"),
        "RESULTS": str(tmp_path / "results"),
        "AT": datetime.now(UTC).isoformat(),
        "PYTHONPATH": str(ROOT),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "import_job.py", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )

    said = [run("prepare", job, "2").stderr for job in ("0", "1")]
    assert sum("broken" in text for text in said) == 1
    run("publish")
    # both may be run again
    run("prepare", "1", "2")
    run("publish")
    with sr.Registry.open(tmp_path / "registry") as registry:
        assert {task.name: task.version for task in registry.tasks()} == dict.fromkeys(
            ["t00", *folders], 1
        )
        assert registry.show("t01").number == registry.show("t05").number
        assert registry.show("t01").message == "import"
        assert registry.verify("deep").ok
