"""Parameter name map of Wan2.1's autoencoder: from diffusers' names to the official ones."""

import re

_LAYERS = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
_ENDS = {"conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2"}
_OUTSIDE = {"quant_conv": "conv1", "post_quant_conv": "conv2"}
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
_STAGE = 4  # layers in each stage of the decoder: three residual blocks and an upsampling


def official_name(name: str) -> str:
    """Official name of a parameter of the autoencoder. Official names are returned unchanged."""
    if outside := re.fullmatch(r"(post_quant_conv|quant_conv)\.(\w+)", name):
        return f"{_OUTSIDE[outside[1]]}.{outside[2]}"
    if end := re.fullmatch(r"(encoder|decoder)\.(conv_in|norm_out|conv_out)\.(\w+)", name):
        return f"{end[1]}.{_ENDS[end[2]]}.{end[3]}"
    if block := re.fullmatch(r"(encoder|decoder)\.mid_block\.(\w+\.\d)\.(.+)", name):
        return f"{block[1]}.middle.{_MIDDLE[block[2]]}.{_layer(block[3])}"
    if block := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.(.+)", name):
        return f"encoder.downsamples.{block[1]}.{_layer(block[2])}"
    if block := re.fullmatch(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d)\.(.+)", name):
        within = int(block[3]) if block[2] == "resnets" else _STAGE - 1
        return f"decoder.upsamples.{_STAGE * int(block[1]) + within}.{_layer(block[4])}"
    return name


def _layer(name: str) -> str:
    """Official name of a layer inside a block."""
    head, _, rest = name.partition(".")
    if head == "conv_shortcut":
        return f"shortcut.{rest}"
    return f"{_LAYERS[head]}.{rest}" if head in _LAYERS else name
