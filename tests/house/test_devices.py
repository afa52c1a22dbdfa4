"""Every tensor that is made from nothing says on which device and of which type.

Else it is made on the device, and of the type, that a caller set for torch.
"""

import ast
from pathlib import Path

import share_registry

MAKERS = {
    "arange",
    "empty",
    "eye",
    "full",
    "linspace",
    "logspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "tensor",
    "zeros",
}


def test_every_new_tensor_names_its_device_and_type() -> None:
    seen, nameless = 0, []
    for path in sorted(Path(share_registry.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=maker)) if (
                    maker in MAKERS
                ):
                    seen += 1
                    if not {"device", "dtype"} <= {keyword.arg for keyword in node.keywords}:
                        nameless.append(f"{path.name}:{node.lineno}")
    assert seen > 45
    assert nameless == []
