"""A merged adapter is the adapter: W + alpha / r * B A, whatever PEFT and trainers call the halves."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from ground.errors import AvatarError
from models.checkpoints.convert import Conversion, convert
from tests.checkpoints import State, official, random_state
from tests.tiny_models import T2V_TINY_TEST

TINY = T2V_TINY_TEST.name
RANK = 4
TARGETS = ("blocks.0.self_attn.q", "blocks.1.cross_attn.o", "blocks.1.ffn.2")


def halves(state: State) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return {
        target: (
            torch.randn(RANK, state[f"{target}.weight"].shape[1], generator=generator),
            torch.randn(state[f"{target}.weight"].shape[0], RANK, generator=generator),
        )
        for target in TARGETS
    }


def peft(folder: Path, state: State, alpha: float = 8) -> Path:
    """As ``PeftModel.save_pretrained`` writes it."""
    folder.mkdir()
    pairs = {}
    for target, (a, b) in halves(state).items():
        pairs[f"base_model.model.{target}.lora_A.weight"] = a
        pairs[f"base_model.model.{target}.lora_B.weight"] = b
    save_file(pairs, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": alpha}))
    return folder


def trainers(folder: Path, state: State) -> Path:
    """As LongLive's ``lora.pt``: a state of the wrapped network, with the adapter's name inside."""
    folder.mkdir()
    pairs = {}
    for target, (a, b) in halves(state).items():
        pairs[f"base_model.model.model.{target}.lora_A.default.weight"] = a
        pairs[f"base_model.model.model.{target}.lora_B.default.weight"] = b
    torch.save({"generator_lora": pairs}, folder / "lora.pt")
    return folder / "lora.pt"


def diffusers(folder: Path, state: State) -> Path:
    """Over a transformer of diffusers' names."""
    folder.mkdir()
    theirs = {"blocks.0.self_attn.q": "blocks.0.attn1.to_q", "blocks.1.cross_attn.o": "blocks.1.attn2.to_out.0"}
    pairs = {}
    for target, (a, b) in halves(state).items():
        name = theirs.get(target, "blocks.1.ffn.net.2")
        pairs |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(pairs, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(("write", "alpha"), [(peft, None), (trainers, 8.0), (diffusers, 8.0)])
def test_merged_is_base_plus_adapter(tmp_path: Path, write: Callable[..., Path], alpha: float | None) -> None:
    state = random_state()
    base, lora = official(tmp_path, state), write(tmp_path / "lora", state)
    made = load_file(convert(Conversion(base, TINY, lora, alpha), str(tmp_path)))
    x = torch.randn(5, 48)
    for target, (a, b) in halves(state).items():
        inputs = x if a.shape[1] == 48 else torch.randn(5, a.shape[1])
        beside = F.linear(inputs, state[f"{target}.weight"]) + 8 / RANK * F.linear(F.linear(inputs, a), b)
        torch.testing.assert_close(F.linear(inputs, made[f"{target}.weight"]), beside, atol=1e-4, rtol=1e-4)
    others = made.keys() - {f"{target}.weight" for target in TARGETS}
    assert len(others) == len(state) - 3 and all(torch.equal(made[name], state[name]) for name in others)


def refused(tmp_path: Path, lora: Path, words: str, alpha: float | None = None) -> None:
    base = official(tmp_path, random_state())
    with pytest.raises(AvatarError, match=words):
        convert(Conversion(base, TINY, lora, alpha), str(tmp_path / "models"))
    assert not (tmp_path / "models").exists()


def test_an_unknown_scale_is_asked_for(tmp_path: Path) -> None:
    refused(tmp_path, trainers(tmp_path / "lora", random_state()), "set --lora-alpha")


@pytest.mark.parametrize("rule", [{"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"x": 2}}])
def test_other_rules_are_not_merged_by_this_one(tmp_path: Path, rule: dict[str, object]) -> None:
    lora = peft(tmp_path / "lora", random_state())
    (lora / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 8, **rule}))
    refused(tmp_path, lora, next(iter(rule)))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("base_model.model.blocks.9.self_attn.q.lora_A.weight", None, "only A or only B for blocks.9"),
        (
            "base_model.model.blocks.0.self_attn.q.lora_A.weight",
            torch.zeros(RANK, 3),
            "its pair for blocks.0.self_attn.q",
        ),
        ("base_model.model.blocks.0.self_attn.q.lora_magnitude_vector", torch.zeros(48), "not part of a LoRA pair"),
    ],
    ids=["half", "shape", "other"],
)
def test_what_is_no_pair_for_the_base_is_named(
    tmp_path: Path, name: str, value: torch.Tensor | None, words: str
) -> None:
    lora = peft(tmp_path / "lora", random_state())
    pairs = load_file(lora / "adapter_model.safetensors")
    save_file({**pairs, name: torch.zeros(1) if value is None else value}, lora / "adapter_model.safetensors")
    refused(tmp_path, lora, words)


def test_an_adapter_of_rank_nought_is_refused(tmp_path: Path) -> None:
    lora = peft(tmp_path / "lora", random_state())
    a, b = (f"base_model.model.blocks.0.self_attn.q.lora_{half}.weight" for half in "AB")
    pairs = load_file(lora / "adapter_model.safetensors")
    pairs |= {a: torch.zeros(0, 48), b: torch.zeros(48, 0)}
    save_file(pairs, lora / "adapter_model.safetensors")
    refused(tmp_path, lora, "its pair for blocks.0.self_attn.q")


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    lora = peft(tmp_path / "lora", random_state())
    pairs = load_file(lora / "adapter_model.safetensors")
    key = "base_model.model.blocks.0.self_attn.q.lora_A"
    save_file({**pairs, f"{key}.other.weight": pairs[f"{key}.weight"].clone()}, lora / "adapter_model.safetensors")
    refused(tmp_path, lora, "more than one adapter")


@pytest.mark.parametrize("alpha", ["NaN", "-Infinity", "1" + "0" * 400])
def test_an_alpha_that_is_no_scale_is_refused(tmp_path: Path, alpha: str) -> None:
    lora = peft(tmp_path / "lora", random_state())
    (lora / "adapter_config.json").write_text(f'{{"lora_alpha": {alpha}}}')
    refused(tmp_path, lora, "not a number below a million")


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    lora = peft(tmp_path / "lora", random_state())
    with pytest.raises(AvatarError, match="this file by --lora"):
        convert(Conversion(lora, TINY), str(tmp_path))
