"""A safetensors header is believed only where the file bears it out; anything else ends in one clear error."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ground.errors import EngineError
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.convert import Conversion, convert
from models.checkpoints.fit import shapes_of
from models.checkpoints.headers import MAX_HEADER_BYTES, TensorInfo, read_header
from models.checkpoints.reading import open_checkpoint
from models.checkpoints.verify import verify_file
from models.checkpoints.writing import write
from models.config import WAN21_T2V_1_3B
from models.dit.transformer import CausalWanDiT


def made(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: Any = (2,), begin: Any = 0, end: Any = 8, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b"{", b"", "not JSON"),
        (b"\xff\xfe", b"", "not JSON"),
        (b"[" * 100_000, b"", "not JSON"),
        ([], b"", "not a JSON object"),
        ({"a": 5}, b"", "does not describe a"),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"", "does not describe a"),
        ({"a": entry(shape=["2"])}, b"x" * 8, "data offsets of a are invalid"),
        ({"a": entry(shape=[-2])}, b"x" * 8, "data offsets of a are invalid"),
        ({"a": entry(shape=[True, 2])}, b"x" * 8, "data offsets of a are invalid"),
        ({"a": entry(shape=[2**40, 2**40, 0], end=0)}, b"", ""),
        ({"a": entry(shape=[2**60], end=2**62)}, b"x" * 8, "data offsets of a are invalid"),
        ({"a": entry(end=8.0)}, b"x" * 8, "data offsets of a are invalid"),
        ({"a": entry(begin=-8, end=0)}, b"x" * 8, "data offsets of a are invalid"),
        ({"a": entry(dtype="F4")}, b"x" * 8, "unsupported type, 'F4'"),
        ({"a": entry(dtype=["F32"])}, b"x" * 8, "unsupported type"),
        ({"a": entry(end=4)}, b"x" * 4, "does not match its shape"),
        ({"a": entry(begin=8, end=0)}, b"x" * 8, "does not match its shape"),
        ({"a": entry(), "b": entry(begin=4, end=12)}, b"x" * 12, "b overlaps"),
        ({"a": entry(), "b": entry()}, b"x" * 8, "b overlaps"),
        ({"a": entry(), "b": entry(begin=12, end=20)}, b"x" * 20, "b begins after a gap"),
        ({"a\n\x1b[2J": entry()}, b"x" * 8, "invalid tensor name"),
        ({"a" * 301: entry()}, b"x" * 8, "invalid tensor name"),
        ({"a": entry()}, b"x" * 7, "truncated, 1 bytes"),
        ({"a": entry()}, b"x" * 11, "3 bytes at its end"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "a": {}}', b"x" * 8, "occurs twice"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: object, data: bytes, words: str) -> None:
    path = made(tmp_path / "m.safetensors", header, data)
    if words:
        with pytest.raises(EngineError, match=f"m.safetensors is not a readable checkpoint: .*{words}"):
            open_checkpoint(path)
    else:  # nothing but sizes, and they are true
        assert read_header(path)["a"].bytes == 0


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_huge_header_is_not_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(EngineError, match="its header would be"):
        read_header(made(tmp_path / "m.safetensors", {}, length=length))
    with pytest.raises(EngineError, match="within its header"):
        read_header(made(tmp_path / "m.safetensors", {}, length=MAX_HEADER_BYTES))


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 500))
def test_one_changed_byte_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int, cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    save_file({"one": torch.ones(3, 4), "two": torch.zeros(5, dtype=torch.bfloat16)}, path)
    data = bytearray(path.read_bytes())
    data[at % len(data)] = value
    path.write_bytes(data[: len(data) - max(0, cut - 450)])
    try:
        checkpoint = open_checkpoint(path)
        read = {name: checkpoint.read(name) for name in checkpoint.tensors}
    except EngineError as error:
        assert error.code == "checkpoint_broken" and "\n" not in error.message
    else:
        assert {name: TensorInfo(t.dtype, tuple(t.shape)) for name, t in read.items()} == dict(checkpoint.tensors)


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), new=st.booleans()
)
def test_a_changed_pickle_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], new: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    state = {"generator": {"model.one": torch.ones(3, 4), "model.two": torch.zeros(5)}}
    torch.save(state, path, _use_new_zipfile_serialization=new)
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    path.write_bytes(data)
    try:
        checkpoint = open_checkpoint(path)
    except EngineError as error:
        assert error.code == "checkpoint_broken" and error.message.isprintable()
    else:
        assert all(checkpoint.read(name).shape == info.shape for name, info in checkpoint.tensors.items())


def test_a_checkpoint_of_full_size_is_judged_without_its_memory(tmp_path: Path) -> None:
    """Wan2.1 1.3B in fp32: a true header over a file that holds nothing."""
    shapes = shapes_of(CausalWanDiT.on_meta(WAN21_T2V_1_3B))
    at, header = 0, {}
    for name, shape in shapes.items():
        size = TensorInfo(torch.float32, shape).bytes
        header[name] = entry(shape, at, at + size)
        at += size
    path = made(tmp_path / "diffusion_pytorch_model.safetensors", header)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + at)
    assert at == 4 * 1_418_996_800 and path.stat().st_blocks * 512 < 2**20
    report = verify_file(path)
    assert report.good and "of wan2.1-t2v-1.3b, self-forcing, longlive" in report.lines[0]
    with pytest.raises(EngineError, match=r"does not fit wan2\.1-1\.3b: .* missing \(drive_embedding"):
        convert(Conversion(path, "wan2.1-1.3b"), str(tmp_path))
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_is_what_the_library_reads(tmp_path: Path) -> None:
    state = {
        "b": torch.randn(3, 5).to(torch.bfloat16), "a": torch.randn(2, 3).T, "none": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5), "half": torch.randn(7).half(), "whole": torch.arange(5),
    }  # fmt: skip
    tensors = {name: TensorInfo(value.dtype, tuple(value.shape)) for name, value in state.items()}
    write(Checkpoint("x", tensors, lambda name: state[name]), tmp_path / "x.safetensors", metadata={"model": "m"})
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)
    assert all(loaded[name].dtype == state[name].dtype for name in state)
    assert read_header(tmp_path / "x.safetensors") == tensors
    write(Checkpoint("x", tensors, lambda name: state[name]), tmp_path / "y.safetensors", torch.bfloat16)
    assert torch.equal(load_file(tmp_path / "y.safetensors")["a"], state["a"].to(torch.bfloat16))
