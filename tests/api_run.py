"""Runs schemathesis against the real server with the embedded model: `-m tests.api_run [--examples N]`.

Runs with every check: without a session's token, also in sequences of requests; with that of a session that waits for
its offer; and with that of a live call. Prints each run's summary. Exit code 1 if anything was found.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from tests.caller import Caller

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "tests" / "schemathesis.toml"
KEY = "key-of-the-api-test"
PICTURE = ROOT / "client_web" / "samples" / "portrait_1.jpg"
AWAY = {"portrait_id": "0" * 32, "session_id": "0" * 32}


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[str]:
    """A server that asks for ``KEY``, on a free port, ready; its address."""
    environment = {**os.environ, "KNOTCAST_API_KEYS": KEY, "KNOTCAST_MAX_SESSIONS": "10000", "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", "serve", "--port", "0",
        cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        address = (await process.stdout.readline()).decode().split()[3]
        async with httpx.AsyncClient(base_url=address) as client, asyncio.timeout(180):
            while (await client.get("/ready")).status_code != 200:
                await asyncio.sleep(0.2)
        yield address
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def new_session(client: httpx.AsyncClient) -> tuple[str, dict[str, Any]]:
    """A portrait's id, and a session of it."""
    portrait = (await client.put("/v1/portraits", content=PICTURE.read_bytes())).json()["id"]
    made = await client.post("/v1/sessions", json={"portrait_id": portrait, "seed": 1})
    assert made.status_code == 201, made.text
    return portrait, made.json()


@contextlib.asynccontextmanager
async def live_call(client: httpx.AsyncClient, session: dict[str, Any]) -> AsyncIterator[None]:
    """The session's call, connected and kept alive."""
    caller = Caller(client, session=session)
    await caller.connect()

    async def ping() -> None:
        while True:
            caller.send("ping")
            await asyncio.sleep(1)

    pinging = asyncio.create_task(ping())
    try:
        yield
        assert (await caller.state())["state"] == "live"
    finally:
        pinging.cancel()
        await client.delete(caller.path, headers=caller.headers)
        await caller.close()


async def schemathesis(
    address: str, examples: int, ids: dict[str, str], *options: str, phases: str = "examples,coverage,fuzzing"
) -> tuple[int, str]:
    """Exit code and output of one run. ids: path parameters that take one value."""
    with tempfile.TemporaryDirectory() as folder:  # it keeps what it found in the current one
        parameters = "".join(f'{name} = "{value}"\n' for name, value in ids.items())
        config = Path(folder) / "schemathesis.toml"
        config.write_text(f"{CONFIG.read_text()}\n[parameters]\n{parameters}")
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("st"), "--config-file", config, "--no-color",
            "run", f"{address}/openapi.json", "--checks", "all", "--phases", phases,
            "--max-examples", str(examples), *options,
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def run(examples: int) -> dict[str, tuple[int, str]]:
    """Exit code and output of every run, by its name."""
    found: dict[str, tuple[int, str]] = {}
    calls = ("--include-path-regex", "^/v1/sessions/")
    async with server() as address, httpx.AsyncClient(base_url=address, timeout=60) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        portrait, session = await new_session(client)
        ids = {"portrait_id": portrait, "session_id": session["id"]}
        key = ("--header", f"Authorization: Bearer {KEY}")
        found["without a token"] = await schemathesis(address, examples, AWAY, *key)
        found["in sequences"] = await schemathesis(address, examples // 5 or 1, {}, *key, phases="stateful")
        found["with a portrait"] = await schemathesis(
            address, examples, ids, *key, "--include-path-regex", "^/v1/portraits/"
        )
        token = ("--header", f"Authorization: Bearer {session['token']}")
        found["with a token"] = await schemathesis(address, examples, ids, *token, *calls)
        portrait, session = await new_session(client)
        ids = {"portrait_id": portrait, "session_id": session["id"]}
        token = ("--header", f"Authorization: Bearer {session['token']}")
        async with live_call(client, session):
            found["in a live call"] = await schemathesis(
                address, examples, ids, *token, *calls, "--exclude-operation-id", "delete_session"
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--examples", type=int, default=50, help="generated requests for each operation and phase")
    found = asyncio.run(run(parser.parse_args().examples))
    for name, (code, output) in found.items():
        print(f"== {name} ==\n{output if code else output[output.find('= SUMMARY') :]}")
    return int(any(code for code, _ in found.values()))


if __name__ == "__main__":
    sys.exit(main())
