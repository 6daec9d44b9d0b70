"""Parameter name maps: from every published format to Wan2.1's official names, which are ours.

One map for the transformer (official, diffusers, and what trainers and PEFT wrap around either),
`models.checkpoints.wan_keys` for the autoencoder. Knows no shapes and no files.
"""

import re
from collections.abc import Iterable

# Put in by FSDP, activation checkpointing and torch.compile, anywhere in a name.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
# Put in front by PEFT, by DistributedDataParallel, and by the class that Self Forcing's code holds the network in.
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

# In FlashHead's files and used by nothing at run time.
FLASHHEAD_MARK = "audio_proj.proj1_vf.weight"
FLASHHEAD_UNUSED = ("audio_emb.", "text_embedding.")


def bare_name(name: str) -> str:
    """Without what trainers wrap around a network."""
    return _PREFIX.sub("", _WRAPPERS.sub("", name))


def transformer_name(name: str) -> str:
    """The official name of a transformer's parameter, or of a module (then without a parameter's ending)."""
    name = bare_name(name)
    if name == "scale_shift_table":
        return "head.modulation"
    if block := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return f"blocks.{block[1]}.{_in_block(block[2])}"
    head, found, end = _split(name, _OUTSIDE)
    return f"{found}{_ENDS.get(end, end)}" if head else name


def ignored_prefixes(names: Iterable[str]) -> tuple[str, ...]:
    """What a family ships beside the weights that it uses: known, and left where it is."""
    return FLASHHEAD_UNUSED if FLASHHEAD_MARK in set(names) else ()


def _in_block(name: str) -> str:
    if name == "scale_shift_table":
        return "modulation"
    head, found, end = _split(name, _BLOCK)
    return f"{found}{end}" if head else name


def _split(name: str, table: dict[str, str]) -> tuple[str, str, str]:
    """(theirs, ours with a dot, parameter), the longest beginning that the table knows; empty if none."""
    for theirs in sorted(table, key=len, reverse=True):
        if name == theirs:
            return theirs, table[theirs], ""
        if name.startswith(f"{theirs}."):
            return theirs, f"{table[theirs]}.", name[len(theirs) + 1 :]
    return "", "", name
