"""Which model of a pipeline of diffusers a module is of, told by its path.

Paths begin with the part of the pipeline, as in the files that pipelines save, or have the names of
one model alone. Attention there is `to_q`, `to_k` and `to_v`, and the blocks of UNets and diffusion
transformers have names that language models do not have.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

# What pipelines call the file of a LoRA.
PIPELINE_FILE: Final = "pytorch_lora_weights.safetensors"
_TEXT: Final = r"text_encoder(_[23])?"
_PART: Final = re.compile(
    rf"(?P<part>unet|transformer(_2)?|controlnet|prior|decoder|{_TEXT})\.(?P<path>.+)"
)
_OF_UNET: Final = re.compile(r"(down_blocks|mid_block|up_blocks)\.")
_OF_PIPELINE: Final = re.compile(
    rf"{_TEXT}\..+|(.*\.)?(down_blocks|mid_block|up_blocks|transformer_blocks"
    r"|single_transformer_blocks)\..+|(.*\.)?(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
)


def parts_of(modules: Iterable[str]) -> Mapping[str, tuple[str, str]]:
    """Return the part of the pipeline and the path in it of every module.

    Empty where they are not of a pipeline, or some say their part and others do not.
    """
    modules = list(modules)
    if not any(map(_OF_PIPELINE.fullmatch, modules)):
        return {}
    matches = [_PART.fullmatch(module) for module in modules]
    if not any(matches):
        part = "unet" if any(map(_OF_UNET.match, modules)) else "transformer"
        return {module: (part, module) for module in modules}
    return {match[0]: (match["part"], match["path"]) for match in matches if match and all(matches)}
