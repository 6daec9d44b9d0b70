"""What SoulX-FlashHead's transformer files hold: names and shapes, as its model class makes them.

Written down from that class, not from ours: a test holds our network against it. D is the width, N a layer.
"""

LAYERS, D, FFN, FREQUENCY, TEXT, HIDDEN, TOKENS, WIDTH = 30, 1536, 8960, 256, 4096, 512, 32, 768
FEATURES = 12 * WIDTH
PATCH = (1, 2, 2)

Shapes = dict[str, tuple[int, ...]]


def flashhead_keys(channels: int, stride: int) -> Shapes:
    """channels: of the autoencoder's latent, 16 (Pro) or 128 (Lite). stride: video frames of a latent, 4 or 8."""
    shapes: Shapes = {"patch_embedding.weight": (D, 2 * channels, *PATCH), "patch_embedding.bias": (D,)}
    shapes |= {"head.modulation": (1, 2, D)}
    for name, (out, into) in {
        "text_embedding.0": (D, TEXT), "text_embedding.2": (D, D),
        "time_embedding.0": (D, FREQUENCY), "time_embedding.2": (D, D), "time_projection.1": (6 * D, D),
        "head.head": (channels * PATCH[1] * PATCH[2], D),
        "audio_emb.proj.1": (WIDTH, WIDTH), "audio_emb.proj.3": (D, WIDTH),
        "audio_proj.proj1": (HIDDEN, 5 * FEATURES), "audio_proj.proj1_vf": (HIDDEN, (5 + stride - 1) * FEATURES),
        "audio_proj.proj2": (HIDDEN, HIDDEN), "audio_proj.proj3": (TOKENS * D, HIDDEN),
    }.items():  # fmt: skip
        shapes |= _linear(name, out, into)
    for name, width in {"audio_emb.proj.0": WIDTH, "audio_emb.proj.4": D, "audio_proj.norm": D}.items():
        shapes |= _norm(name, width)
    for layer in range(LAYERS):
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in _block().items()}
    return shapes


def _block() -> Shapes:
    shapes: Shapes = {"modulation": (1, 6, D)} | _norm("norm3", D)
    for attention in ("self_attn", "cross_attn"):
        for projection in "qkvo":
            shapes |= _linear(f"{attention}.{projection}", D, D)
        shapes |= {f"{attention}.norm_q.weight": (D,), f"{attention}.norm_k.weight": (D,)}
    return shapes | _linear("ffn.0", FFN, D) | _linear("ffn.2", D, FFN)


def _linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
