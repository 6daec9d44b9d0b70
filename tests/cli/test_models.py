"""`knotcast models` as a user meets it: plain words, one line for what is wrong, exit code 2."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from cli.main import app, models_folder
from models.checkpoints.folders import WEIGHTS
from models.checkpoints.manifest import KNOWN
from models.config import CONFIGS
from server.settings import Settings, engine_config
from tests.checkpoints import official, random_state, self_forcing, shards, vae_state
from tests.hub_stub import serving_hub
from tests.models.checkpoints.test_lora import peft
from tests.tiny_models import T2V_TINY_TEST

TINY = T2V_TINY_TEST.name


def knotcast(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, arguments)])


def refused(words: str, *arguments: str | Path) -> None:
    run = knotcast(*arguments)
    assert (run.exit_code, run.stderr.count("\n")) == (2, 1), run.output
    assert run.stderr.startswith("knotcast: ") and words in run.stderr


def test_the_list_names_every_model_and_whether_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "self-forcing").mkdir()
    (tmp_path / "self-forcing" / "vae.safetensors").touch()
    lines = knotcast("list", "--models-dir", tmp_path).stdout.splitlines()
    state = {line.split()[0]: line for line in lines}
    assert {**CONFIGS, **KNOWN}.keys() < state.keys()
    assert "in the package" in state["embedded-512"]
    assert "lacks dit.safetensors" in state["self-forcing"] and "to be fetched" in state["longlive"]
    assert "no published weights" in state["wan2.1-1.3b"]


def test_info_tells_licence_memory_and_files(tmp_path: Path) -> None:
    told = knotcast("info", "self-forcing", "--models-dir", tmp_path).stdout
    for words in ("1,419.0 million", "CC-BY-NC-SA-4.0", "--accept-licence", "24 GB", "gdhe17/Self-Forcing", "0.51 GB"):
        assert words in told
    assert "authors do not say" in knotcast("info", "flashhead-pro").stdout
    refused("unknown model 'x'", "info", "x")


def test_convert_and_verify(tmp_path: Path) -> None:
    state = random_state()
    source, folder = self_forcing(tmp_path, state), tmp_path / "models"
    report = knotcast("verify", TINY, "--models-dir", folder)
    assert report.exit_code == 2 and report.stdout.count("missing") == 2 and f"--to {TINY}" in report.stdout
    assert f"loads as dit.safetensors of {TINY}" in knotcast("verify", source).stdout
    run = knotcast("convert", source, "--to", TINY, "--models-dir", folder, "--dtype", "bfloat16")
    assert (run.exit_code, run.stdout.strip()) == (0, str(folder / TINY / "dit.safetensors")), run.output
    made = load_file(folder / TINY / "dit.safetensors")
    assert all(torch.equal(made[name], state[name].bfloat16()) for name in state)
    save_file(vae_state(), tmp_path / "vae.safetensors")
    assert knotcast("convert", tmp_path / "vae.safetensors", "--to", TINY, "--models-dir", folder).exit_code == 0
    report = knotcast("verify", TINY, "--models-dir", folder)
    assert report.exit_code == 0 and report.stdout.count(": loads") == 2


def test_shipped_weights_are_nobodys_to_replace() -> None:
    """Not even by a file that fits."""
    for name in ("embedded", "embedded-512"):
        refused("comes with its weights", "convert", WEIGHTS / "embedded" / "dit.safetensors", "--to", name)


def test_verify_names_every_fault_of_a_file_and_the_nearest_model(tmp_path: Path) -> None:
    state = random_state()
    gone = sorted(state)[:5]
    for name in gone:
        del state[name]
    report = knotcast("verify", official(tmp_path, {**state, "head.head.bias": torch.zeros(2)}))
    assert report.exit_code == 2 and f"nearest is {TINY}" in report.stdout
    assert all(name in report.stdout for name in [*gone, "head.head.bias [2], not [64]"])
    lora = peft(tmp_path / "lora", random_state())
    assert "a LoRA" in knotcast("verify", lora).stdout


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    state = random_state()
    path, to = official(tmp_path, state), ("--to", TINY, "--models-dir", tmp_path / "models")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:3000])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused("within its header", "convert", tmp_path / "cut.safetensors", *to)
    refused("within its header", "verify", tmp_path / "cut.safetensors")
    refused("no checkpoint", "convert", tmp_path / "none.pt", *to)
    refused("no checkpoint in", "convert", tmp_path / "empty", *to)
    refused("must end in", "convert", tmp_path / "text.txt", *to)
    refused("tensors are x", "convert", tmp_path / "other.safetensors", *to)
    refused("flashhead-pro, flashhead-lite", "convert", path, "--to", "x")
    refused("does not fit embedded", "convert", path, "--to", "embedded")
    refused("neither a model", "verify", "x")
    refused("neither a model", "verify", "x" * 300)
    refused("unknown published checkpoint 'x'", "fetch", "x")
    refused("--accept-licence", "fetch", "self-forcing", "--models-dir", tmp_path)
    (tmp_path / "models" / TINY).mkdir(parents=True)
    (tmp_path / "models" / TINY / "dit.safetensors").mkdir()
    refused("it is a folder", "convert", path, *to)
    assert (tmp_path / "models" / TINY / "dit.safetensors").is_dir() and shards(tmp_path / "empty", state)


def test_a_folder_that_nobody_may_look_into_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A fake, as there is no such folder for root."""
    hidden, stat = tmp_path / "hidden", os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if Path(path).is_relative_to(hidden):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    source = official(tmp_path, random_state())
    monkeypatch.setattr(os, "stat", refuse)
    for arguments in (
        ("list",), ("info", "longlive"), ("fetch", "wan2.1-t2v-1.3b"), ("convert", source, "--to", TINY),
        ("verify", TINY),
    ):  # fmt: skip
        refused(f"cannot read {hidden}", *arguments, "--models-dir", hidden)
    refused(f"cannot read {hidden}", "convert", hidden / "some.pt", "--to", TINY)


def test_fetch_by_the_command_asks_the_hub_of_the_environment(tmp_path: Path) -> None:
    """HF_ENDPOINT is huggingface_hub's own; the file is refused there, as the stub's is another than the known one."""
    with serving_hub({"Wan-AI/Wan2.1-T2V-1.3B/diffusion_pytorch_model.safetensors": b"another"}) as hub:
        run = subprocess.run(
            [sys.executable, "-m", "cli.main", "models", "fetch", "wan2.1-t2v-1.3b"],
            env={**os.environ, "HF_ENDPOINT": hub.url, "KNOTCAST_MODELS_DIR": str(tmp_path / "models")},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert (run.returncode, run.stderr.count("\n")) == (2, 1), run.stderr
    assert "has changed on the hub" in run.stderr and "Apache-2.0" in run.stdout
    assert [method for method, _, _ in hub.asked] == ["HEAD"] and not (tmp_path / "models").exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:port", "huggingface.co", "https://", ""])
def test_a_hub_without_an_address_is_one_line(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    refused("HF_ENDPOINT must be", "fetch", "wan2.1-t2v-1.3b", "--models-dir", tmp_path)


def test_an_address_that_the_hubs_package_chokes_on_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://[::1")
    monkeypatch.delitem(sys.modules, "huggingface_hub.constants", raising=False)
    refused("HF_ENDPOINT must be", "fetch", "wan2.1-t2v-1.3b", "--models-dir", tmp_path)


def test_without_the_hubs_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("pip install 'knotcast[hub]'", "fetch", "wan2.1-t2v-1.3b", "--models-dir", tmp_path)


def test_the_folder_is_the_option_the_variable_or_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models_folder(None) == str(tmp_path / "knotcast" / "models") == engine_config(Settings()).models_dir
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert models_folder(None) == str(Path.home() / ".cache" / "knotcast" / "models")
    monkeypatch.setenv("KNOTCAST_MODELS_DIR", "/m")
    assert models_folder(None) == "/m" == engine_config(Settings()).models_dir
    assert models_folder(tmp_path) == str(tmp_path)
