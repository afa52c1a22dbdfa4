"""Paths of modules that were written with underscores in place of points.

kohya-ss' trainers and LyCORIS write `lora_unet_mid_block_attentions_0_proj_in`, from which the path
`mid_block.attentions.0.proj_in` has to be told again. Names of modules have underscores of their
own, so this takes a list of those that image, video and language models have. A name that is not
made of them is left as it is written.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

# What stands before the path -> the part of a pipeline.
_PREFIXES: Final[Mapping[str, str]] = {
    "lora_unet": "unet",
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
    "lora_te3": "text_encoder_3",
    "lora_transformer": "transformer",
    "lora_prior": "prior",
    "lora_controlnet": "controlnet",
    "lycoris": "",
    "lora": "",
}
_BY_LENGTH: Final = sorted(_PREFIXES, key=len, reverse=True)
# Names of modules with an underscore in them.
# fmt: off
_COMPOUND: Final = frozenset({
    # UNets
    "down_blocks", "mid_block", "up_blocks", "transformer_blocks", "to_q", "to_k", "to_v", "to_out",
    "to_kv", "to_qkv", "proj_in", "proj_out", "conv_in", "conv_out", "conv_norm_out",
    "conv_shortcut", "time_emb_proj", "time_embedding", "add_embedding", "linear_1", "linear_2",
    "linear_3", "group_norm", "encoder_hid_proj", "class_embedding", "to_k_ip", "to_v_ip",
    # UNets as their authors name them
    "input_blocks", "middle_block", "output_blocks", "in_layers", "out_layers", "emb_layers",
    "skip_connection", "time_embed", "label_emb",
    # transformers of diffusers
    "single_transformer_blocks", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
    "ff_context", "proj_mlp", "context_embedder", "x_embedder", "time_text_embed",
    "timestep_embedder", "text_embedder", "guidance_embedder", "norm_out", "norm1_context",
    "norm2_context", "adaLN_modulation", "adaln_single", "caption_projection", "pos_embed",
    "to_gate_compress", "img_mlp", "txt_mlp", "img_mod", "txt_mod", "txt_norm", "attn_2",
    "noise_refiner", "context_refiner", "feed_forward", "norm_q", "norm_k", "norm_added_q",
    "norm_added_k", "cap_embedder", "t_embedder", "y_embedder", "t_block", "condition_embedder",
    "time_embedder", "time_proj", "image_embedder", "to_q_a", "to_q_b", "to_k_a", "to_k_b",
    "scale_shift_table", "to_added_qkv", "to_qkv_mlp_proj", "linear_in", "linear_out",
    "double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation",
    "audio_attn1", "audio_attn2", "audio_ff", "patch_embedding", "text_embedding",
    "time_projection",
    # transformers as their authors name them
    "double_blocks", "single_blocks", "joint_blocks", "x_block", "img_attn", "txt_attn", "img_in",
    "txt_in", "time_in", "vector_in", "guidance_in", "final_layer", "in_layer", "out_layer",
    "distilled_guidance_layer", "in_proj", "context_block", "self_attn", "cross_attn", "k_img",
    "v_img", "norm_k_img", "img_emb", "individual_token_refiner", "self_attn_qkv",
    "self_attn_proj", "text_mlp", "c_embedder", "individual_token", "input_embedder",
    "mlp_in", "mlp_out", "double_layers", "single_layers", "w1q", "w1k", "w1v", "w1o", "w2q", "w2k",
    "w2v", "w2o", "adaln_modulation_self_attn", "adaln_modulation_cross_attn",
    "adaln_modulation_mlp", "q_proj", "k_proj", "v_proj", "output_proj", "llm_adapter",
    # text encoders and language models
    "text_model", "text_projection", "out_proj", "token_embedding", "position_embedding",
    "final_layer_norm", "layer_norm1", "layer_norm2", "wi_0", "wi_1", "o_proj", "qkv_proj",
    "gate_proj", "up_proj", "down_proj", "gate_up_proj", "embed_tokens", "lm_head", "c_attn",
    "c_proj", "c_fc", "linear_attn", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b",
    "shared_expert", "language_model", "vision_model", "vision_tower", "multi_modal_projector",
    "encoder_attn", "query_key_value", "dense_h_to_4h", "dense_4h_to_h", "block_sparse_moe",
    "attn_q", "attn_k", "attn_v",
})
# Names without.
_SIMPLE: Final = frozenset({
    "attentions", "resnets", "downsamplers", "upsamplers", "attn1", "attn2", "attn", "ff", "net",
    "proj", "conv", "conv1", "conv2", "op", "out", "norm", "norm1", "norm2", "norm3", "linear",
    "linear1", "linear2", "fc1", "fc2", "mlp", "lin", "qkv", "mod", "modulation", "encoder",
    "decoder", "layers", "layer", "block", "blocks", "model", "transformer", "q", "k", "v", "o",
    "wi", "wo", "w1", "w2", "w3", "wq", "wk", "wv", "attention", "SelfAttention",
    "EncDecAttention", "DenseReluDense", "ffn", "head", "projection", "text", "visual", "h",
    "mixer", "experts", "gate", "router", "fc", "dense", "query", "key", "value", "output",
    "self", "intermediate", "embeddings", "kv", "img", "txt", "audio", "video",
    "cap", "embedder", "refiner", "mod1", "mod2",
})
# HunyuanVideo has these in one part, where Flux has a module within a module.
_OF_HUNYUAN: Final = frozenset({
    "img_attn_qkv", "img_attn_proj", "txt_attn_qkv", "txt_attn_proj",
})
# fmt: on
_LONGEST: Final = max(name.count("_") for name in _COMPOUND | _OF_HUNYUAN) + 1
_SGM: Final = re.compile(
    r"(?:(?P<side>input_blocks|output_blocks)\.(?P<block>\d+)|(?P<middle>middle_block))"
    r"\.(?P<inner>\d+)(?:\.(?P<rest>.+))?"
)
_SGM_PARTS: Final = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_SGM_ENDS: Final = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
# Of every published UNet whose blocks are numbered through; so each block has three modules here.
_PER_BLOCK: Final = 3


def is_flat(name: str) -> bool:
    """Tell whether a module's name is written with underscores behind a trainer's prefix."""
    return _prefix_of(name) is not None


def paths_of(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return the path of each name, and the names that could not be told apart.

    Those keep their underscores, behind the part of the pipeline.
    """
    names = sorted(names)
    is_hunyuan = any(re.search(r"_(img|txt)_mlp_fc\d", name) for name in names)
    paths: dict[str, str] = {}
    unclear = []
    for name in names:
        prefix = _prefix_of(name)
        rest = name if prefix is None else name[len(prefix) + 1 :]
        component = "" if prefix is None else _PREFIXES[prefix]
        parts = _split(rest, is_hunyuan=is_hunyuan)
        if parts is None:
            unclear.append(name)
        path = rest if parts is None else _without_sgm(parts)
        paths[name] = f"{component}.{path}" if component else path
    return paths, unclear


def _prefix_of(name: str) -> str | None:
    return next((prefix for prefix in _BY_LENGTH if name.startswith(f"{prefix}_")), None)


@cache
def _split(name: str, *, is_hunyuan: bool) -> str | None:
    """Return a path with points; None where a part of the name is not known."""
    words = re.split(r"[_.]", name)
    parts: list[str] = []
    place = 0
    compound = _COMPOUND | _OF_HUNYUAN if is_hunyuan else _COMPOUND
    while place < len(words):
        lengths = range(min(_LONGEST, len(words) - place), 0, -1)
        length = next(
            (
                length
                for length in lengths
                if (part := "_".join(words[place : place + length])) in compound
                or part in _SIMPLE
                or part.isdecimal()
            ),
            0,
        )
        if not length:
            return None
        parts.append("_".join(words[place : place + length]))
        place += length
    return ".".join(parts)


def _without_sgm(path: str) -> str:
    """Return the path that diffusers has for a module of a UNet as its authors number it."""
    if path in _SGM_ENDS:
        return _SGM_ENDS[path]
    match = _SGM.fullmatch(path)
    if match is None:
        return path
    inner, rest = int(match["inner"]), match["rest"] or ""
    rest = _SGM_PARTS.get(rest, rest)
    if match["middle"]:
        owner = f"mid_block.{('resnets.0', 'attentions.0', 'resnets.1')[min(inner, 2)]}"
    elif match["side"] == "input_blocks":
        block, layer = divmod(int(match["block"]) - 1, _PER_BLOCK)
        kind = f"{('resnets', 'attentions')[min(inner, 1)]}.{layer}"
        owner = f"down_blocks.{block}.{'downsamplers.0' if rest == 'op' else kind}"
        rest = "conv" if rest == "op" else rest
    else:
        block, layer = divmod(int(match["block"]), _PER_BLOCK)
        kind = f"{('resnets', 'attentions')[min(inner, 1)]}.{layer}"
        owner = f"up_blocks.{block}.{'upsamplers.0' if rest == 'conv' else kind}"
    return f"{owner}.{rest}" if rest else owner
