"""Fixtures that every test shares: a test that leaves an asyncio task behind has failed."""

import asyncio
import inspect
from collections.abc import AsyncIterator

import pytest

import tests.tiny_models  # noqa: F401, the table of models has them in every test

SETTLE_S = 2.0  # a task that was cancelled may need a moment to see it


@pytest.fixture
async def watched_tasks() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    deadline = asyncio.get_running_loop().time() + SETTLE_S
    while left := {task for task in asyncio.all_tasks() - before if not task.done()} - {asyncio.current_task()}:
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"tasks left behind: {sorted(str(task.get_coro()) for task in left)}")
        await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def no_leaked_tasks(request: pytest.FixtureRequest) -> None:
    """Set up before, and so torn down after, whatever else a coroutine test uses."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("watched_tasks")
