"""The labels that are counted under are all there are."""

import ast
from pathlib import Path

from server.call.call import ENDED
from server.metrics import END_REASONS

ROOT = Path(__file__).resolve().parents[2]
OF_STREAMS = ("pool", "worker", "wire", "drive")  # folders of engine/
NO_END = {
    "gateway_lost", "worker_start_failed", "worker_start_timeout", "no_codec",  # no call is there to hear it
    "protocol_error", "worker_hung", "device_lost",  # a worker's end: its calls hear worker_lost
    "frame_lost",  # the stream is opened anew
    "stream_closed",  # by the call itself
}  # fmt: skip


def said(path: Path, functions: set[str]) -> set[str]:
    """Every name that is handed to one of ``functions`` as its first argument."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and node.args]
    named = [call for call in calls if getattr(call.func, "attr", getattr(call.func, "id", "")) in functions]
    return {word for call in named for word in words(call.args[0])}


def words(node: ast.expr) -> set[str]:
    """A constant, or the two of a choice."""
    if isinstance(node, ast.IfExp):
        return words(node.body) | words(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def test_every_reason_for_which_a_call_can_end_is_counted_under_its_name() -> None:
    errors = {"EngineError", "CapacityError", "RequestError", "_late"}
    codes = {
        code for name in OF_STREAMS for file in (ROOT / "engine" / name).glob("*.py") for code in said(file, errors)
    }
    assert codes >= NO_END
    reasons = said(ROOT / "server" / "call" / "engine_link.py", errors)
    for path in (ROOT / "server").rglob("*.py"):
        reasons |= said(path, {"end", "_lose"})
    reasons |= said(ROOT / "server" / "sessions.py", {"close"})
    assert (codes - NO_END) | reasons == END_REASONS
    assert ENDED.keys() <= END_REASONS
