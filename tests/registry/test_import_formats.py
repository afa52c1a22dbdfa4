"""One import of everything: adapters of every program that is known, beside those of PEFT."""

import errno
import shutil
from pathlib import Path

import torch
from typing_extensions import override

import share_registry as sr
from share_registry.exchange.peft_directory import adapter_of
from share_registry.outside.files import Outside
from share_registry.outside.system import System
from share_registry.registry.opening import open_context
from share_registry.values.imports import ImportStatus
from tests.exchange.foreign import SAMPLES

PEFT_DIRECTORIES = 20
REFUSED = {
    *("adapterhub/bert-doraconfig", "adapterhub/bert-gated", "adapterhub/bert-ia3"),
    *("adapterhub/bert-veraconfig", "refused/a.onnx_adapter", "refused/bert.lora.h5"),
    *("refused/lit_model.pth.lora", "refused/litgpt.safetensors", "refused/lora.pt"),
    *("refused/loralib.safetensors", "refused/olive.safetensors"),
    *(
        f"lycoris/{name}.safetensors"
        for name in (
            *("dora-in", "full-norm", "glora", "glora-rs", "ia3", "ia3-in"),
            *("loha", "lokr", "lokr-both", "lokr-full", "lokr-full-rs"),
        )
    ),
}
"""What has no form as LoRA, or does not say what dW is."""


def _peft_directory(place: Path, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    path = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{path}.lora_A.weight": torch.randn(2, 32, generator=generator),
        f"{path}.lora_B.weight": torch.randn(32, 2, generator=generator),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    adapter_of(tensors, config).save(place)


def test_all_formats_and_20_directories_of_peft_are_one_import(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    shutil.copytree(SAMPLES, folder)
    # of one name in two tools, which would be two versions of one task
    (folder / "mlx-lm" / "dora").rename(folder / "mlx-lm" / "dora-of-mlx")
    (folder / "mlx-lm" / "moe").rename(folder / "mlx-lm" / "moe-of-mlx")
    for number in range(PEFT_DIRECTORIES):
        _peft_directory(folder / "peft" / f"task-{number}", number)
    with sr.Registry.open("memory://") as registry:
        registry.create_space("s", base_model="org/base", policy=sr.Policy(budget=0))
        report = registry.import_many(folder, space="s", allow_base_mismatch=True)
        again = registry.import_many(folder, space="s", allow_base_mismatch=True)
    refused = {
        str(Path(outcome.source).relative_to(folder)): outcome
        for outcome in report.of(ImportStatus.REFUSED)
    }
    assert refused.keys() == REFUSED
    assert all(outcome.reason and outcome.hint for outcome in refused.values())
    committed = {str(outcome.ref) for outcome in report.of(ImportStatus.COMMITTED)}
    assert {f"s/task-{number}@v1" for number in range(PEFT_DIRECTORIES)} <= committed
    assert len(committed) == len(report.outcomes) - len(REFUSED)
    assert (again.committed, again.unchanged) == (0, len(committed))


def test_files_of_formats_that_are_not_read_are_refused_also_under_a_format(
    tmp_path: Path,
) -> None:
    for name in ("litgpt.safetensors", "loralib.safetensors"):
        shutil.copy(SAMPLES / "refused" / name, tmp_path / name)
    with sr.Registry.open("memory://") as registry:
        report = registry.import_many(tmp_path, format="diffusers")
    assert [Path(outcome.source).name for outcome in report.of(ImportStatus.REFUSED)] == [
        "litgpt.safetensors",
        "loralib.safetensors",
    ]
    assert all("LitGPT" in each.reason or "loralib" in each.reason for each in report.outcomes)


class _Closed(System):
    """A file system with one directory that nobody may list."""

    @override
    def listdir(self, name: str, *, folder: int | None = None) -> list[str]:
        if Path(name).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return super().listdir(name, folder=folder)


def test_a_directory_that_cannot_be_read_stops_no_other(tmp_path: Path) -> None:
    for number, name in enumerate(("open", "closed", "other")):
        _peft_directory(tmp_path / "in" / name, number)
    context, _ = open_context(
        tmp_path / "registry", store=None, space=None, mode="c", outside=Outside(system=_Closed())
    )
    with sr.Registry(context) as registry:
        registry.create_space("s", base_model="org/base")
        report = registry.import_many(tmp_path / "in", space="s", workers=1)
    assert report.committed == 2
    (refused,) = report.of(ImportStatus.REFUSED)
    assert "closed" in refused.source
    assert "Permission denied" in refused.reason
