"""Manifest of published checkpoints: files on the hub, licences, digests, and the input that drives each model.

Sizes and digests are those that public projects record of the hub's files; None is unknown, and then the values that
the hub reports are used. Read a licence yourself to learn whether it permits your use.
"""

from dataclasses import dataclass

from models.checkpoints.folders import DIT, LTX, LTX_CONFIG, TINY, VAE, WAV2VEC, WAV2VEC_CONFIG

WAN = "Wan-AI/Wan2.1-T2V-1.3B"
WAN_14B = "Wan-AI/Wan2.1-T2V-14B"
FLASHHEAD = "Soul-AILab/SoulX-FlashHead-1_3B"
PERMISSIVE = ("Apache-2.0", "MIT")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the hub.

    repository, path: its place on the hub. target: file in the model's folder that it is converted or copied to; empty
    for a companion of the file before it (a shard, an adapter). size: bytes. sha256: hexadecimal digest.
    """

    repository: str
    path: str
    target: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A published model.

    model: name of its config. licence: of the weights, as their page states it. driven_by: input of the model.
    memory_gb: device memory that the authors state, None if they state none. adapter: path of a LoRA to merge. alpha:
    the adapter's alpha. note: advice before downloading.
    """

    model: str
    title: str
    files: tuple[HubFile, ...]
    licence: str
    driven_by: str
    memory_gb: float | None = None
    adapter: str = ""
    alpha: float | None = None
    note: str = ""

    @property
    def permissive(self) -> bool:
        return self.licence in PERMISSIVE

    @property
    def repositories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(file.repository for file in self.files))


WAN_VAE = HubFile(
    WAN, "Wan2.1_VAE.pth", VAE, 507_609_880, "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981"
)
WAV2VEC_FILES = (
    HubFile(
        "facebook/wav2vec2-base-960h", "model.safetensors", WAV2VEC, 377_607_901,
        "8aa76ab2243c81747a1f832954586bc566090c83a0ac167df6f31f0fa917d74a",
    ),
    HubFile(
        "facebook/wav2vec2-base-960h", "config.json", WAV2VEC_CONFIG, 1_596,
        "d3ec255c063d9f95057b553b19c20135b259875834a4fe9deb218a6be25b4cf3",
    ),
)  # fmt: skip
TEXT_ONLY = "text only: it has no voice input, so it takes no calls"

KNOWN: dict[str, Known] = {
    known.model: known
    for known in (
        Known(
            model="flashhead-pro",
            title="SoulX-FlashHead 1.3B Pro, 512x512, 25 frames a second",
            files=(
                HubFile(FLASHHEAD, "Model_Pro/diffusion_pytorch_model.safetensors", DIT),
                HubFile(FLASHHEAD, "Model_Pro/config.json", "config.json"),
                HubFile(FLASHHEAD, "VAE_Wan/Wan2.1_VAE.pth", VAE, WAN_VAE.size, WAN_VAE.sha256),
                *WAV2VEC_FILES,
            ),
            licence="Apache-2.0",
            driven_by="voice (wav2vec2) and a portrait",
            note="its authors: 10.8 frames a second on one RTX 4090, real time on two RTX 5090",
        ),
        Known(
            model="flashhead-lite",
            title="SoulX-FlashHead 1.3B Lite, 512x512, 25 frames a second",
            files=(
                HubFile(FLASHHEAD, "Model_Lite/diffusion_pytorch_model.safetensors", DIT),
                HubFile(FLASHHEAD, "Model_Lite/config.json", "config.json"),
                HubFile(FLASHHEAD, "VAE_LTX/diffusion_pytorch_model.safetensors", LTX),
                HubFile(FLASHHEAD, "VAE_LTX/config.json", LTX_CONFIG),
                *WAV2VEC_FILES,
            ),
            licence="Apache-2.0",
            driven_by="voice (wav2vec2) and a portrait",
            note="its authors: 96 frames a second on one RTX 4090; users report about 25 there",
        ),
        Known(
            model="wan2.1-t2v-1.3b",
            title="Wan2.1 text to video 1.3B, 832x480, 16 frames a second",
            files=(
                HubFile(
                    WAN, "diffusion_pytorch_model.safetensors", DIT, 5_676_070_424,
                    "96b6b242ca1c2f24e9d02cd6596066fab6d310e2d7538f33ae267cb18d957e8f",
                ),
                WAN_VAE,
            ),
            licence="Apache-2.0",
            driven_by=TEXT_ONLY,
            memory_gb=8.19,
            note="not distilled: four steps of it are no pictures; a start for training",
        ),
        Known(
            model="wan2.1-t2v-14b",
            title="Wan2.1 text to video 14B, 832x480, 16 frames a second",
            files=(
                HubFile(WAN_14B, "diffusion_pytorch_model.safetensors.index.json", DIT),
                *(
                    HubFile(WAN_14B, f"diffusion_pytorch_model-{i:05}-of-00006.safetensors", "")
                    for i in range(1, 7)
                ),
                WAN_VAE,
            ),
            licence="Apache-2.0",
            driven_by=TEXT_ONLY,
            memory_gb=40,
            note="not distilled: four steps of it are no pictures; a start for training",
        ),
        Known(
            model="self-forcing",
            title="Self Forcing 1.3B, Wan2.1 distilled to four causal steps, 832x480, 16 frames a second",
            files=(HubFile("gdhe17/Self-Forcing", "checkpoints/self_forcing_dmd.pt", DIT), WAN_VAE),
            licence="CC-BY-NC-SA-4.0",
            driven_by=TEXT_ONLY,
            memory_gb=24,
            note="its code is Apache-2.0, its weights are not: no commercial use",
        ),
        Known(
            model="longlive",
            title="LongLive 1.3B, Self Forcing tuned on long videos (LoRA), 832x480, 16 frames a second",
            files=(
                HubFile("Efficient-Large-Model/LongLive-1.3B", "models/longlive_base.pt", DIT),
                HubFile("Efficient-Large-Model/LongLive-1.3B", "models/lora.pt", ""),
                WAN_VAE,
            ),
            licence="stated on its page",
            driven_by=TEXT_ONLY,
            adapter="models/lora.pt",
            alpha=256,
        ),
    )
}  # fmt: skip


def advice(model: str, file: str) -> str:
    """How to get a missing file of a model, as a part of a message."""
    if model in KNOWN and any(part.target == file for part in KNOWN[model].files):
        return f"`knotcast models fetch {model}` gets it"
    kind = "TAEHV's taew2_1" if file == TINY else "a checkpoint"
    return f"`knotcast models convert FILE --to {model}` makes it from {kind}"
