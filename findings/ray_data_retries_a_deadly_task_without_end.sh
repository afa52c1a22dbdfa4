#!/usr/bin/env bash
# Ray 2.60.0, Ray Data: a map task whose process dies is run again without end, also one that takes
# its process down every time (too much memory, a crash in native code): the pipeline never ends. And
# nothing that is not deprecated limits that. `map_batches(..., max_retries=1)` and
# `ray_remote_args_fn` do, with RayDeprecationWarning "will be removed in Ray 2.64. Use the named
# remote parameters instead", but no named parameter is about retries. (`max_map_retries` of the
# DataContext is about exceptions only.)
#
# Seen: "no named parameter: True", "by default: 10 starts, and no end",
#   "max_retries=1: 2 starts, WorkerCrashedError, warned: True". Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install 'ray[data]==2.60.0' pyarrow==26.0.1 pandas==3.1.1
cd "$folder"
cat > deadly.py <<'PYTHON'
import inspect
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import ray
import ray.data

STARTS = Path(sys.argv[1])
ENOUGH = 10


def die(batch):
    with STARTS.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
    return batch


def starts():
    return STARTS.stat().st_size if STARTS.exists() else 0


def wait_for_many():
    while starts() < ENOUGH:
        time.sleep(0.1)
    print(f"by default: {ENOUGH} starts, and no end", flush=True)
    os._exit(0)


named = "max_retries" in inspect.signature(ray.data.Dataset.map_batches).parameters
print("no named parameter:", not named)
ray.init(num_cpus=1, object_store_memory=80 << 20, include_dashboard=False, log_to_driver=False)
limit = {"max_retries": 1} if sys.argv[2] == "limited" else {}
if not limit:
    threading.Thread(target=wait_for_many, daemon=True).start()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pipeline = ray.data.range(1, override_num_blocks=1).map_batches(die, **limit)
warned = any("named remote parameters" in str(warning.message) for warning in caught)
try:
    pipeline.materialize()
except ray.exceptions.WorkerCrashedError:
    print(f"max_retries=1: {starts()} starts, WorkerCrashedError, warned: {warned}", flush=True)
PYTHON
# its token and its logs go with the folder
export RAY_USAGE_STATS_ENABLED=0 HOME="$folder" RAY_TMPDIR="$folder"
for limit in endless limited; do
  timeout 200 "$folder/venv/bin/python" deadly.py "$folder/$limit" "$limit" 2>"$folder/log" | tee -a seen
done
grep -q '^no named parameter: True$' seen
grep -q '^by default: 10 starts, and no end$' seen
grep -q '^max_retries=1: 2 starts, WorkerCrashedError, warned: True$' seen
