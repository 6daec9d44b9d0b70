"""A run's folder: one run at a time and no other after it, files whole or as they were, little memory to write them."""

import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.config import RolloutSpec
from engine.errors import RequestError
from tests.clips import CPU
from tests.parallel_run import trainer
from tests.test_training_run import command, make_corpus
from training import checkpoint
from training.files import held, replacing
from training.parallel import World

ALONE = World(CPU)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run = trainer("causal", tmp_path, ALONE)
    run.advance()
    run.save()
    (run.folder / "config.json").write_text("kept")
    for name, changed in (("causal-ode", "method"), ("base", "stage"), ("distill", "stage")):
        shutil.copytree(run.folder, tmp_path / name)
        with pytest.raises(RequestError, match=f"{name} holds a run of another {changed}: name another folder"):
            trainer(name, tmp_path, ALONE).run()
        assert (tmp_path / name / "config.json").read_text() == "kept"
    rollout, model = RolloutSpec(knot=2, window=9), replace(run.config.model, name="other")
    for other in (replace(run.config, rollout=rollout), replace(run.config, model=model)):
        assert len(set(other.identity.values()) ^ set(run.config.identity.values())) == 2
    with safe_open(run.checkpoint, framework="pt") as file:
        known = file.metadata()
    older = {name: known[name] for name in ("step", "seconds")}
    save_file(load_file(run.checkpoint), run.checkpoint, older)
    assert trainer("causal", tmp_path, ALONE).step == 1, "older checkpoints do not say whose they are"
    shutil.copy(run.checkpoint, tmp_path / "distill")
    with pytest.raises(RequestError, match="distill holds a run of another stage"):
        trainer("distill", tmp_path, ALONE)


def test_a_folder_takes_one_run_at_a_time(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    with held(tmp_path / "run", "training in"):
        code, output = command("base", "--config", "base-smoke", *data, "--out", str(tmp_path / "run"))
    assert code == 2 and "another run is training in" in output and len(output.splitlines()) == 1
    assert not list((tmp_path / "run").glob("*.*s*")), "it wrote nothing"


def test_what_a_kill_interrupts_leaves_the_file_before(tmp_path: Path) -> None:
    file = tmp_path / "one"
    file.write_text("before")
    with pytest.raises(KeyboardInterrupt), replacing(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]
    with replacing(file) as partial:
        partial.write_text("after")
        assert file.read_text() == "before" and partial.parent == file.parent
    assert file.read_text() == "after" and list(tmp_path.iterdir()) == [file]


def test_an_export_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dit.safetensors"
    checkpoint.export({"a": torch.ones(2)}, path, {})
    before = path.read_bytes()

    def torn(_: object, path: Path, __: object) -> None:
        path.write_bytes(b"half")
        raise OSError

    monkeypatch.setattr(checkpoint, "save_file", torn)
    with pytest.raises(OSError):
        checkpoint.export({"a": torch.ones(3)}, path, {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path] and path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("write", [True, False], ids=["the first process", "the others"])
def test_a_checkpoint_is_gathered_tensor_by_tensor(
    write: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer("distill", tmp_path, ALONE)
    run.advance()
    gathered: list[weakref.ref[torch.Tensor]] = []

    def whole(value: torch.Tensor) -> torch.Tensor:
        assert sum(one() is not None for one in gathered) <= 1, "the one before"
        out = value.clone()
        gathered.append(weakref.ref(out))
        return out

    monkeypatch.setattr(checkpoint, "whole", whole)
    run.state.save(run.checkpoint, run.progress, write=write)
    assert len(gathered) > 100 and run.checkpoint.exists() == write


def test_gradients_live_for_one_turn(tmp_path: Path) -> None:
    run, seen = trainer("distill", tmp_path, ALONE), []
    for name, optimiser in run.optimisers.items():

        def note(*_: object, name: str = name) -> None:
            seen.append(name)
            held = {n for n, network in run.networks.items() if any(p.grad is not None for p in network.parameters())}
            assert held == {name}

        optimiser.register_step_pre_hook(note)
    run.advance()
    assert seen == ["model", "critic"]
    assert all(p.grad is None for network in run.networks.values() for p in network.parameters())
