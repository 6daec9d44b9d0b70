"""A run's folder: one run at a time and no other after it, files whole or as they were, little memory to write them."""

import errno
import os
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ground.config import RolloutSpec
from ground.errors import RequestError
from ground.files import held, replacing
from tests.clips import CPU
from tests.full_disk import files_of_at_most
from tests.parallel_run import trainer
from tests.training.test_run import command, make_corpus
from training import checkpoint, export
from training.configs import PRESETS
from training.parallel import World

ALONE = World(CPU)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run = trainer("causal", tmp_path, ALONE)
    run.advance()
    run.save()
    (run.folder / "config.json").write_text("kept")
    for name, changed in (("causal-ode", "method"), ("base", "stage"), ("distill", "stage")):  # and seed
        shutil.copytree(run.folder, tmp_path / name)
        with pytest.raises(RequestError, match=f"{name} holds a run of another {changed} and .*seed: name"):
            trainer(name, tmp_path, ALONE).run()
        assert (tmp_path / name / "config.json").read_text() == "kept"
    changes = {
        "rollout": RolloutSpec(knot=2, window=9), "batch": 8, "seed": 5, "chunks": 4,
        "model": replace(run.config.model, name="other"), "size": replace(run.config.model, pixel_size=(16, 16)),
    }  # fmt: skip
    for name, value in changes.items():
        other = replace(run.config, **{"model" if name == "size" else name: value})
        assert {key for key, own in run.config.identity.items() if other.identity[key] != own} == {name}
    with safe_open(run.checkpoint, framework="pt") as file:
        known = file.metadata()
    older = {name: known[name] for name in ("step", "seconds")}
    save_file(load_file(run.checkpoint), run.checkpoint, older)
    assert trainer("causal", tmp_path, ALONE).step == 1, "older checkpoints do not say whose they are"
    shutil.copy(run.checkpoint, tmp_path / "distill")
    with pytest.raises(RequestError, match="distill holds a run of another stage"):
        trainer("distill", tmp_path, ALONE)


def test_every_preset_is_another_run() -> None:
    identities = [config.identity for config in PRESETS.values()]
    assert all(identities.count(one) == 1 for one in identities)
    config = PRESETS["base-cpu"]
    longer = replace(config, steps=9, hours=9.0, accumulate=2, workers=1, recompute=True, save_every=8)
    assert longer.identity == config.identity, "the same, for longer or on another machine"


def test_a_run_from_other_weights_is_another_run(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    run = ["base", "--config", "base-smoke", *data, "--device", "cpu", "--steps", "1", "--out"]
    for name, start in (("first", []), ("second", ["--start", str(tmp_path / "first" / "checkpoint.safetensors")])):
        code, output = command(*run, str(tmp_path / name), *start)
        assert code == 0, output
        code, output = command(*run, str(tmp_path / name), *start)
        assert code == 0 and "nothing left to do: 1 of 1 steps\n" in output
    for name, other in (("first", start), ("second", [])):
        code, output = command(*run, str(tmp_path / name), *other)
        assert code == 2 and "holds a run of another start: name another folder" in output


def test_a_checkpoint_that_cannot_be_gone_on_from_is_one_line(tmp_path: Path) -> None:
    run = trainer("base", tmp_path, ALONE)
    run.advance()
    run.save()
    whole = {name: value.clone() for name, value in load_file(run.checkpoint).items()}  # not the file's own pages
    with safe_open(run.checkpoint, framework="pt") as file:
        known = file.metadata()
    data = run.checkpoint.read_bytes()
    apart = {name: value for name, value in whole.items() if not name.startswith("ema.")}

    def folder() -> None:
        run.checkpoint.unlink()
        run.checkpoint.mkdir()

    for spoil in (
        lambda: run.checkpoint.write_bytes(data[:-9]),
        lambda: run.checkpoint.write_bytes(b""),
        lambda: save_file(whole, run.checkpoint),
        lambda: save_file(whole, run.checkpoint, {"format": "pt"}),
        lambda: save_file(apart, run.checkpoint, known),
        lambda: save_file({"weight": torch.ones(1)}, run.checkpoint),
        folder,
    ):
        spoil()
        with pytest.raises(RequestError, match=r"base/checkpoint.safetensors .*: delete it or choose another folder"):
            trainer("base", tmp_path, ALONE)


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


def test_a_file_takes_its_name_once_the_disk_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some disks say only then that they are full."""
    file = tmp_path / "one"
    file.write_text("before")

    def full(descriptor: int) -> None:
        assert os.fstat(descriptor).st_size == len("after") and file.read_text() == "before"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match=r"one: No space left on device"), replacing(file) as partial:
        partial.write_text("after")
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("file", "lines"), [("checkpoint.safetensors", 1), ("log.jsonl", 340)])
def test_a_disk_that_fills_ends_a_run_in_a_line_and_leaves_its_last_checkpoint(
    tmp_path: Path, file: str, lines: int
) -> None:
    run = trainer("base", tmp_path, ALONE)
    run.advance()
    run.save()
    (run.folder / "log.jsonl").write_text('{"step": 1}\n' * lines)
    before = run.checkpoint.read_bytes()
    again = trainer("base", tmp_path, ALONE)
    with files_of_at_most(4096), pytest.raises(RequestError, match=f"{file}: File too large.*; make room") as ended:
        again.run()
    assert "\n" not in ended.value.message
    assert run.checkpoint.read_bytes() == before and not list(run.folder.glob(".*.partial"))
    assert trainer("base", tmp_path, ALONE).step == 1, "and can go on"


def test_an_export_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dit.safetensors"
    checkpoint.export({"a": torch.ones(2)}, path, {})
    before = path.read_bytes()

    def torn(_: object, path: Path, __: object) -> None:
        path.write_bytes(b"half")
        raise OSError

    monkeypatch.setattr(checkpoint, "save_file", torn)
    with pytest.raises(RequestError, match="cannot write"):
        checkpoint.export({"a": torch.ones(3)}, path, {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path] and path.stat().st_mode & 0o777 == 0o644


def test_export_tells_what_it_was_made_of(tmp_path: Path) -> None:
    run = trainer("causal", tmp_path, ALONE)
    run.save()
    out = tmp_path / "new" / "dit.safetensors"
    export.export(run.checkpoint, out)
    with safe_open(out, framework="pt") as file:
        told = {"model": run.config.model.name, "stage": "causal", "step": "0", "method": "teacher_forcing"}
        assert file.metadata() == told
        assert set(file.keys()) == set(run.state.ema)
    run.state.run["stage"] = "distill"  # older checkpoints name a method in every stage
    run.save()
    export.export(run.checkpoint, out)
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"model": run.config.model.name, "stage": "distill", "step": "0"}


def test_export_of_what_is_no_checkpoint_leaves_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plain, torn = (tmp_path / name for name in ("dit.safetensors", "plain.safetensors", "torn.safetensors"))
    checkpoint.export({"a": torch.ones(2)}, plain, {})
    torn.write_bytes(plain.read_bytes()[:-1])
    out.write_text("before")
    refusals = {plain: "no averaged weights", torn: "torn", tmp_path: "torn or no", tmp_path / "none": "no checkpoint"}
    for path, words in refusals.items():
        monkeypatch.setattr("sys.argv", ["export", str(path), str(out)])
        with pytest.raises(SystemExit) as ended:
            export.main()
        told = capsys.readouterr().err
        assert ended.value.code == 2 and words in told and str(path) in told and told.count("\n") == 1
        assert out.read_text() == "before"


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
