"""Limits of time for what runs in the loop."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any


def limited(test: Callable[..., Awaitable[Any]], seconds: float) -> Callable[..., Awaitable[Any]]:
    """The same, which raises TimeoutError when it takes longer."""

    @functools.wraps(test)
    async def within(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return within
