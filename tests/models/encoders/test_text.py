"""A prompt's embedding: transformers' own numbers at its tokens and zeros beyond; kept on disk; refused in one line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import models.encoders.text as text_encoder
from ground.config import EngineConfig
from ground.errors import AvatarError
from models.encoders.pretrained import import_transformers, read_config
from models.encoders.text import TextSource, clean_prompt, embed_text, encode_prompt, read_embedding
from models.registry import load_model
from server.settings import Settings, engine_config

transformers = import_transformers()
WIDTH = 24
WORDS = ["<pad>", "</s>", "<unk>", "a", "woman", "speaks", "to", "the", "camera"]
PROMPT = "a woman speaks to the camera"
CLOSE = 1e-5  # measured: 1e-6


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a tiny umT5 of random weights and a tokenizer of nine words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("models") / "umt5-xxl"
    torch.manual_seed(0)
    config = transformers.UMT5Config(
        vocab_size=len(WORDS), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=3,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    transformers.UMT5EncoderModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder.parent


@pytest.fixture
def installed(models_dir: Path, tmp_path: Path) -> Path:
    """A copy of it without what other tests have kept."""
    folder = tmp_path / "models" / "umt5-xxl"
    folder.mkdir(parents=True)
    for path in (models_dir / "umt5-xxl").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def theirs(folder: Path, prompt: str) -> Tensor:
    """[512, width] as Wan2.1 does it: padded to 512, masked in the encoder, zeroed afterwards."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(prompt, padding="max_length", max_length=512, truncation=True, return_tensors="pt")
    encoder = transformers.UMT5EncoderModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = encoder(given.input_ids, attention_mask=given.attention_mask).last_hidden_state[0]
    return states * given.attention_mask[0][:, None]


@pytest.mark.parametrize(
    ("prompt", "tokens"), [(PROMPT, 7), ("", 1), ("a " * 600, 512)], ids=["prompt", "empty", "cut"]
)
def test_it_is_transformers_at_the_prompt_and_zero_beyond(installed: Path, prompt: str, tokens: int) -> None:
    made = encode_prompt(clean_prompt(prompt), installed, WIDTH, torch.float32)
    wanted = theirs(installed, prompt)
    assert made.shape == (512, WIDTH) and wanted[:tokens].std() > 0.5
    error = (made - wanted).abs().max().item()
    print(f"max abs error {error:.1e}")
    assert error < CLOSE
    assert (made[tokens:] == 0).all() and (made[:tokens] != 0).any(1).all()


def test_what_was_encoded_is_kept_and_the_encoder_not_asked_again(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_prompt(PROMPT, installed, WIDTH)
    (kept,) = (installed / "cache").iterdir()
    runs: list[str] = []

    def run(prompt: str, *_: object) -> Tensor:
        runs.append(prompt)
        return torch.ones(2, WIDTH)

    monkeypatch.setattr(text_encoder, "run_encoder", run)
    assert torch.equal(encode_prompt(PROMPT, installed, WIDTH), first) and runs == []
    encode_prompt("another", installed, WIDTH)
    assert runs == ["another"], "another prompt is another key"
    kept.write_bytes(b"torn")
    encode_prompt(PROMPT, installed, WIDTH)
    assert runs == ["another", PROMPT], "what is broken is made again"
    config = installed / "config.json"
    config.write_text(config.read_text() + " ")
    encode_prompt(PROMPT, installed, WIDTH)
    assert runs[2:] == [PROMPT], "another encoder is another key"
    assert all(path.suffix == ".safetensors" for path in (installed / "cache").iterdir())


def test_prompts_are_cleaned_as_wan_does() -> None:
    assert clean_prompt("  a\n\twoman &amp;amp; a&nbsp;man ") == "a woman & a man"


def test_the_empty_prompt(installed: Path) -> None:
    models_dir = str(installed.parent)
    assert torch.equal(embed_text(TextSource(), WIDTH), torch.zeros(512, WIDTH))
    assert torch.equal(embed_text(TextSource(models_dir=models_dir), WIDTH, random_weights=True), torch.zeros(512, 24))
    real = embed_text(TextSource(models_dir=models_dir), WIDTH)
    assert (real[0] != 0).any() and (real[1:] == 0).all(), "Wan2.1 encodes it: one token"


def test_a_prompt_reaches_the_model(installed: Path, tmp_path: Path) -> None:
    def keys(source: TextSource) -> Tensor:
        model = load_model("wan-tiny-test", device="cpu", dtype="float32", random_weights=True, text=source)
        assert model.context is not None
        return model.context[0][0]

    by_prompt = keys(TextSource(prompt=PROMPT, models_dir=str(installed.parent)))
    path = tmp_path / "text.safetensors"
    save_file({"anything": encode_prompt(PROMPT, installed, WIDTH)[:7].clone()}, path)
    assert torch.equal(keys(TextSource(embedding=str(path))), by_prompt)
    assert not torch.allclose(keys(TextSource()), by_prompt)


def test_settings_reach_the_engine() -> None:
    config = engine_config(Settings(prompt=PROMPT, text_embedding="e.safetensors"))
    assert (config.prompt, config.text) == (PROMPT, "e.safetensors")
    assert (EngineConfig().prompt, EngineConfig().text) == ("", "")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "one tensor"),
        ({"a": torch.zeros(3, WIDTH), "b": torch.zeros(3, WIDTH)}, "one tensor"),
        ({"a": torch.zeros(513, WIDTH)}, r"1 to 512, 24"),
        ({"a": torch.zeros(3, WIDTH + 1)}, r"not \[\(3, 25\)\]"),
        ({"a": torch.zeros(1, 3, WIDTH)}, "one tensor"),
        ({"a": torch.zeros(3, WIDTH, dtype=torch.int32)}, "finite floats"),
        ({"a": torch.full((3, WIDTH), torch.nan)}, "finite floats"),
        ({"a": torch.full((3, WIDTH), torch.nan).to(torch.float8_e4m3fn)}, "finite floats"),
    ],
)
def test_embeddings_of_the_wrong_shape_are_refused(tmp_path: Path, tensors: dict[str, Tensor], said: str) -> None:
    save_file(tensors, tmp_path / "text.safetensors")
    with pytest.raises(AvatarError, match=said):
        read_embedding(tmp_path / "text.safetensors", WIDTH)


def test_what_cannot_be_had_is_told_in_one_line(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(AvatarError, match="there is no text embedding"):
        embed_text(TextSource(embedding="nothing"), WIDTH)
    with pytest.raises(AvatarError, match="there is no text embedding"):
        read_embedding(Path("x" * 300), WIDTH)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(AvatarError, match="is not JSON"):
        read_config(tmp_path, "umt5")
    (tmp_path / "torn").write_bytes(b"torn")
    with pytest.raises(AvatarError, match="not a readable safetensors"):
        read_embedding(tmp_path / "torn", WIDTH)
    with pytest.raises(AvatarError, match="not both"):
        embed_text(TextSource(prompt="a", embedding="b"), WIDTH)
    for models_dir in ("", str(tmp_path)):
        with pytest.raises(AvatarError, match="needs the text encoder"):
            embed_text(TextSource(prompt="a", models_dir=models_dir), WIDTH)
    with pytest.raises(AvatarError, match="width 4096; .* gives 24"):
        encode_prompt("a", installed, 4096)
    with pytest.raises(AvatarError, match="embedded takes no text"):
        load_model("embedded", device="cpu", random_weights=True, text=TextSource(prompt="a"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (installed / name).unlink(missing_ok=True)
    with pytest.raises(AvatarError, match="tokenizer") as caught:
        encode_prompt("a", installed, WIDTH)
    assert "\n" not in caught.value.message
