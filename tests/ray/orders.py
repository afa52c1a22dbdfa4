"""What a worker of Ray obeys, so that it is killed where a test says so.

Imports little: every process of Ray loads it.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

ORDERS: Final = "SHARE_REGISTRY_TEST_ORDERS"
"""The directory of the orders: of a file `t03-2` a process kills itself at opening t03 again."""
_TENSORS: Final = "adapter_model.safetensors"


def obey() -> None:
    """Watch what this process opens, and count it in the directory for all of them."""
    sys.addaudithook(_watch)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not str(arguments[0]).endswith(_TENSORS):
        return
    task = Path(str(arguments[0])).parent.name
    orders = Path(os.environ[ORDERS])
    with (orders / f"{task}.opened").open("a+") as file:
        file.write("x")
        times = file.tell()
    if (orders / f"{task}-{times}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
