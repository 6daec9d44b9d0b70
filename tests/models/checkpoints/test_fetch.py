"""Fetching against a hub on loopback: what was cut off goes on, what is wrong is told in a line, nothing is half
there."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import models.checkpoints.fetch as fetching
from ground.errors import AvatarError
from ground.files import held
from models.checkpoints.folders import DIT, VAE, WAV2VEC
from models.checkpoints.manifest import KNOWN, HubFile, Known
from models.registry import load_model
from tests.checkpoints import official, random_state, self_forcing, vae_state
from tests.hub_stub import COMMIT, HubStub, serving_hub
from tests.models.checkpoints.test_lora import halves, trainers
from tests.tiny_models import T2V_TINY_TEST

TINY = T2V_TINY_TEST.name
ENTRY = Known(
    model=TINY, title="tiny", licence="Apache-2.0", driven_by="text",
    files=(
        HubFile("nobody/tiny", "checkpoints/self_forcing_dmd.pt", DIT),
        HubFile("nobody/vae", "Wan2.1_VAE.pth", VAE),
        HubFile("nobody/tiny", "config.json", "config.json"),
    ),
)  # fmt: skip


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Known:
    monkeypatch.setitem(KNOWN, TINY, ENTRY)
    return ENTRY


@pytest.fixture
def hub(tmp_path: Path, known: Known) -> Iterator[HubStub]:
    torch.save(vae_state(), tmp_path / "vae.pth")
    files = {
        "nobody/tiny/checkpoints/self_forcing_dmd.pt": self_forcing(tmp_path, random_state()).read_bytes(),
        "nobody/vae/Wan2.1_VAE.pth": (tmp_path / "vae.pth").read_bytes(),
        "nobody/tiny/config.json": b"{}",
    }
    with serving_hub(files) as stub:
        yield stub


def fetch(folder: Path, hub: HubStub, **options: Any) -> tuple[Path | None, list[tuple[str, int, int]]]:
    told: list[tuple[str, int, int]] = []
    made = fetching.fetch(
        TINY, str(folder), lambda file, done, size: told.append((file, done, size)), endpoint=hub.url, **options
    )
    return made, told


def there(folder: Path) -> list[str]:
    """Everything of a model's folder that a loader could see."""
    found = folder / TINY
    return sorted(path.name for path in found.iterdir() if not path.name.startswith(".")) if found.is_dir() else []


def refused(folder: Path, hub: HubStub, words: str, **options: Any) -> None:
    with pytest.raises(AvatarError, match=words) as caught:
        fetch(folder, hub, **options)
    assert "\n" not in caught.value.message
    assert DIT not in there(folder)


def test_what_is_fetched_loads(tmp_path: Path, hub: HubStub) -> None:
    made, told = fetch(tmp_path / "models", hub)
    assert made == tmp_path / "models" / TINY
    assert there(tmp_path / "models") == ["config.json", DIT, "source.json", VAE]
    assert not (made / ".fetch").exists()
    assert COMMIT in (made / "source.json").read_text()
    loaded = load_model(TINY, device="cpu", dtype="float32", models_dir=str(tmp_path / "models"))
    state = random_state()
    assert all(torch.equal(value, state[name]) for name, value in loaded.dit.state_dict().items())
    size = len(hub.files["nobody/vae/Wan2.1_VAE.pth"])
    assert told[0][1] == 0 and ("Wan2.1_VAE.pth", size, size) in told
    asked = len(hub.asked)
    assert fetch(tmp_path / "models", hub)[0] is None and len(hub.asked) == asked, "nothing is fetched twice"
    (made / VAE).unlink()
    fetch(tmp_path / "models", hub)
    assert (made / VAE).is_file() and [name for name, _ in hub.downloads()][-1] == "Wan2.1_VAE.pth"


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_download_that_was_cut_off_goes_on(tmp_path: Path, hub: HubStub, ranges: bool) -> None:
    hub.cut = 100_000
    refused(tmp_path / "models", hub, "the download resumes")
    assert there(tmp_path / "models") == []
    hub.cut, hub.ranges = None, ranges
    fetch(tmp_path / "models", hub)
    assert hub.downloads()[:2] == [("self_forcing_dmd.pt", ""), ("self_forcing_dmd.pt", "bytes=100000-")]
    assert DIT in there(tmp_path / "models")


def test_a_part_of_other_contents_is_not_gone_on_with(tmp_path: Path, hub: HubStub) -> None:
    hub.cut = 100_000
    refused(tmp_path / "models", hub, "the download resumes")
    hub.cut = None
    torch.save({"generator": {f"model.{n}": v for n, v in random_state(seed=2).items()}}, tmp_path / "new.pt")
    hub.files["nobody/tiny/checkpoints/self_forcing_dmd.pt"] = (tmp_path / "new.pt").read_bytes()
    fetch(tmp_path / "models", hub)
    assert hub.downloads()[1] == ("self_forcing_dmd.pt", "")


def test_another_digest_is_refused_and_removed(
    tmp_path: Path, hub: HubStub, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.etags["checkpoints/self_forcing_dmd.pt"] = "0" * 64  # what the hub says, and not what it sends
    refused(tmp_path / "models", hub, "wrong sha256")
    assert list((tmp_path / "models").rglob("*.partial")) == []
    hub.etags.clear()
    first = replace(known.files[0], sha256="1" * 64)
    monkeypatch.setitem(KNOWN, TINY, replace(known, files=(first, *known.files[1:])))
    before = len(hub.downloads())
    refused(tmp_path / "models", hub, "has changed on the hub")
    assert len(hub.downloads()) == before, "nothing is downloaded to find that out"
    hub.etags["checkpoints/self_forcing_dmd.pt"] = "git-etag"  # a hub that does not say a digest: the table's holds
    refused(tmp_path / "models", hub, "wrong sha256")


def test_too_little_room_is_told_before_anything_is_downloaded(
    tmp_path: Path, hub: HubStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = sum(map(len, hub.files.values()))
    need = 2 * sizes + fetching.SPARE_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=need - 1))
    refused(tmp_path / "models", hub, "GB of disk space")
    assert hub.downloads() == [] and not (tmp_path / "models").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=need))
    fetch(tmp_path / "models", hub)


def test_a_licence_with_conditions_is_to_be_accepted(
    tmp_path: Path, hub: HubStub, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN, TINY, replace(known, licence="CC-BY-NC-SA-4.0"))
    refused(tmp_path / "models", hub, r"CC-BY-NC-SA-4.0.*huggingface\.co/nobody/tiny.*--accept-licence")
    assert hub.asked == []
    fetch(tmp_path / "models", hub, accept_licence=True)
    assert "CC-BY-NC-SA-4.0" in (tmp_path / "models" / TINY / "source.json").read_text()


def test_an_absent_hub_a_refusal_and_an_unknown_name_are_one_line(tmp_path: Path, hub: HubStub) -> None:
    absent = HubStub({}, url="http://127.0.0.1:9")
    refused(tmp_path / "models", absent, "connection to the hub failed")
    hub.gated = True
    refused(tmp_path / "models", hub, "refused checkpoints/self_forcing_dmd.pt .*403")
    hub.gated = False
    del hub.files["nobody/vae/Wan2.1_VAE.pth"]
    refused(tmp_path / "models", hub, "refused Wan2.1_VAE.pth .*404")
    with pytest.raises(AvatarError, match="unknown published checkpoint 'x'"):
        fetching.fetch("x", str(tmp_path), print)


def test_a_checkpoint_that_does_not_fit_leaves_no_model(tmp_path: Path, hub: HubStub) -> None:
    torch.save({"generator": {"model.patch_embedding.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    hub.files["nobody/tiny/checkpoints/self_forcing_dmd.pt"] = (tmp_path / "other.pt").read_bytes()
    refused(tmp_path / "models", hub, "does not fit t2v-tiny-test")


def test_an_adapter_that_comes_along_is_merged(
    tmp_path: Path, hub: HubStub, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = HubFile("nobody/tiny", "models/lora.pt", "")
    files = (known.files[0], lora, *known.files[1:])
    monkeypatch.setitem(KNOWN, TINY, replace(known, files=files, adapter="models/lora.pt", alpha=8))
    state = random_state()
    hub.files["nobody/tiny/models/lora.pt"] = trainers(tmp_path / "lora", state).read_bytes()
    fetch(tmp_path / "models", hub)
    loaded = load_model(TINY, device="cpu", dtype="float32", models_dir=str(tmp_path / "models")).dit.state_dict()
    for target, (a, b) in halves(state).items():
        torch.testing.assert_close(loaded[f"{target}.weight"], state[f"{target}.weight"] + 2 * b @ a)


def test_two_fetches_do_not_write_into_each_others_files(tmp_path: Path, hub: HubStub) -> None:
    with held(tmp_path / "models" / TINY, "fetching into"):
        refused(tmp_path / "models", hub, "another run is fetching into")
    assert hub.downloads() == []
    fetch(tmp_path / "models", hub)


def test_what_was_downloaded_goes_before_another_fetch_can_begin(
    tmp_path: Path, hub: HubStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, refusals = shutil.rmtree, []

    def remove_with_a_rival(path: Path) -> None:
        with pytest.raises(AvatarError) as refused, held(tmp_path / "models" / TINY, "fetching into"):
            pass
        refusals.append(refused.value.code)
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", remove_with_a_rival)
    fetch(tmp_path / "models", hub)
    assert refusals == ["in_use"]
    assert not (tmp_path / "models" / TINY / ".fetch").exists()


def test_a_file_that_is_as_it_should_be_only_moves(
    tmp_path: Path, hub: HubStub, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = random_state()
    hub.files["nobody/tiny/model.safetensors"] = official(tmp_path, state).read_bytes()
    files = (HubFile("nobody/tiny", "model.safetensors", DIT), *known.files[1:])
    monkeypatch.setitem(KNOWN, TINY, replace(known, files=files))
    fetch(tmp_path / "models", hub)
    made = tmp_path / "models" / TINY / DIT
    assert made.read_bytes() == hub.files["nobody/tiny/model.safetensors"], "byte by byte, not written anew"


def test_what_no_network_here_looks_into_is_taken_as_it_is(
    tmp_path: Path, hub: HubStub, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A speech encoder is handed to its library; a model may be published before this version can run it."""
    state = {"wav2vec2.encoder.layers.0.attention.k_proj.bias": torch.ones(4)}
    save_file(state, tmp_path / "w.safetensors")
    hub.files["nobody/voice/model.safetensors"] = (tmp_path / "w.safetensors").read_bytes()
    voice = HubFile("nobody/voice", "model.safetensors", WAV2VEC)
    monkeypatch.setitem(KNOWN, "later", replace(known, model="later", files=(*known.files, voice)))
    made = fetching.fetch("later", str(tmp_path / "models"), lambda file, done, size: None, endpoint=hub.url)
    assert made is not None
    assert (made / WAV2VEC).read_bytes() == hub.files["nobody/voice/model.safetensors"]
    assert load_file(made / DIT).keys() == random_state().keys() and load_file(made / VAE).keys() == vae_state().keys()
    hub.files["nobody/voice/model.safetensors"] = b"<html>"
    (made / WAV2VEC).unlink()
    with pytest.raises(AvatarError, match="not a readable checkpoint"):
        fetching.fetch("later", str(tmp_path / "models"), lambda file, done, size: None, endpoint=hub.url)
    assert not (made / WAV2VEC).exists()


def test_the_table_is_consistent() -> None:
    for name, entry in KNOWN.items():
        assert entry.model == name and entry.files[0].target == DIT
        targets = [file.target for file in entry.files if file.target]
        assert len(set(targets)) == len(targets)
        assert not entry.adapter or (entry.alpha and entry.adapter in [file.path for file in entry.files])
        for file in entry.files:
            assert file.sha256 is None or (len(bytes.fromhex(file.sha256)) == 32 and file.size)
