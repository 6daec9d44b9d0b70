"""Worker process: loads the model, warms up, serves (``engine.worker.loop``), and reports why it ends.

Started by name by ``engine.pool.client`` with the number of an inherited socket.
"""

import argparse
import ctypes
import faulthandler
import logging
import os
import signal
import socket

import msgspec

from engine.wire.channel import WorkerChannel
from engine.wire.messages import PROTOCOL_VERSION, Ready, failure
from engine.worker.graphs import is_out_of_memory
from engine.worker.loop import DeviceLost, Worker
from engine.worker.runner import ModelRunner
from engine.worker.warm_up import warm_up
from ground.config import EngineConfig
from ground.errors import AvatarError, EngineError
from models.config import find_config
from models.presets import has_presets

log = logging.getLogger("engine.worker.loop")

_PR_SET_PDEATHSIG = 1


def _reason(config: EngineConfig, error: BaseException | None) -> EngineError:
    """The error that ends the worker. ``out_of_memory`` asks for one preset lower, which only some models have."""
    if is_out_of_memory(error) and has_presets(find_config(config.model)):
        return EngineError("out_of_memory", "the device has no memory left for this preset", retryable=True)
    return EngineError("device_lost", "the worker's device cannot be used any more", retryable=True)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, also while it cannot read its socket."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(channel: WorkerChannel, config: EngineConfig) -> int:
    """Load, warm up, serve. The exit code: 0 when told to stop or left alone, 1 for an error, 2 if it cannot start."""
    try:
        runner = ModelRunner.start(config)
        info = warm_up(runner, config)
    except AvatarError as error:
        channel.send(failure(error))
        return 2
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        channel.send(failure(_reason(config, error)))
        return 2
    worker = Worker(channel, runner, info)
    signal.signal(signal.SIGTERM, lambda number, frame: worker.stop())
    channel.send(Ready(PROTOCOL_VERSION, os.getpid(), info))
    log.info(
        "event=ready model=%s device=%s chunk_ms=%.0f memory_mb=%.0f", info.name, info.device, info.warmup_chunk_ms,
        info.memory_mb,
    )  # fmt: skip
    try:
        worker.run()
    except DeviceLost as lost:
        reason = _reason(config, lost.__cause__)
        log.exception("event=%s", reason.code)
        channel.send(failure(reason))
        return 1
    finally:
        worker.close()
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Internal: started by knotcast.")
    parser.add_argument("--fd", type=int, required=True, help="inherited AF_UNIX stream socket")
    parser.add_argument("--config", type=lambda text: msgspec.json.decode(text, type=EngineConfig), required=True)
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    arguments = parser.parse_args()
    die_with_parent()
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(
        level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s pid=%(process)d %(message)s"
    )
    os.set_inheritable(arguments.fd, False)
    try:
        code = serve(WorkerChannel(socket.socket(fileno=arguments.fd)), arguments.config)
    except EngineError as error:
        log.warning("event=ended code=%s", error.code)
        code = 0 if error.code == "gateway_lost" else 1
    logging.shutdown()
    # Nothing is left to save, and taking torch apart would cost a second of CPU time beside running calls.
    os._exit(code)


if __name__ == "__main__":
    main()
