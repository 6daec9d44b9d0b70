"""Parameter name maps: from every published format to Wan2.1's official names, which our modules use.

The map here is that of the transformer: official names, diffusers' names, and the prefixes that trainers and PEFT add.
`models.checkpoints.wan_keys` maps the autoencoder. Independent of shapes and files.
"""

import re
from collections.abc import Iterable

# Inserted anywhere in a name by FSDP, activation checkpointing and torch.compile.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
# Prepended by PEFT, by DistributedDataParallel, and by the wrapper class in Self Forcing's code.
_PREFIX = re.compile(r"^(?:(?:base_model\.model|module|model)\.)+")

_OUTSIDE = {
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "condition_embedder.image_embedder": "img_emb",
    "proj_out": "head.head",
}
_ATTENTION = {
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "norm_q": "norm_q", "norm_k": "norm_k",
    "add_k_proj": "k_img", "add_v_proj": "v_img", "norm_added_k": "norm_k_img",
}  # fmt: skip
_BLOCK = {
    **{f"attn1.{theirs}": f"self_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    **{f"attn2.{theirs}": f"cross_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",  # the affine one, before text attention; the official norm2 has no parameters
}
_ENDS = {"pos_embed": "emb_pos"}

# Tensors of FlashHead's files that its inference does not use, and a tensor that identifies these files.
FLASHHEAD_MARK = "audio_proj.proj1_vf.weight"
FLASHHEAD_UNUSED = ("audio_emb.", "text_embedding.")


def bare_name(name: str) -> str:
    """A parameter's name without the prefixes of trainers and PEFT."""
    return _PREFIX.sub("", _WRAPPERS.sub("", name))


def transformer_name(name: str) -> str:
    """Official name of a parameter or module of the transformer, from any published format."""
    name = bare_name(name)
    if name == "scale_shift_table":
        return "head.modulation"
    if block := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return f"blocks.{block[1]}.{_in_block(block[2])}"
    head, found, end = _split(name, _OUTSIDE)
    return f"{found}{_ENDS.get(end, end)}" if head else name


def ignored_prefixes(names: Iterable[str]) -> tuple[str, ...]:
    """Name prefixes of tensors that a model family publishes but does not use."""
    return FLASHHEAD_UNUSED if FLASHHEAD_MARK in set(names) else ()


def _in_block(name: str) -> str:
    if name == "scale_shift_table":
        return "modulation"
    head, found, end = _split(name, _BLOCK)
    return f"{found}{end}" if head else name


def _split(name: str, table: dict[str, str]) -> tuple[str, str, str]:
    """Match the longest prefix in the table: (their prefix, our prefix with a dot, rest of the name). The prefixes are
    empty if none matches."""
    for theirs in sorted(table, key=len, reverse=True):
        if name == theirs:
            return theirs, table[theirs], ""
        if name.startswith(f"{theirs}."):
            return theirs, f"{table[theirs]}.", name[len(theirs) + 1 :]
    return "", "", name
