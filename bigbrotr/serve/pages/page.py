"""Declares what a page is: a template, what it shows, and how long that is good for."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from bigbrotr.config.settings import ServeSettings
from bigbrotr.core.pool import Pool


class Ask(NamedTuple):
    """A question: who can answer it, and how it was put."""

    pool: Pool
    query: Any  # the struct of the route
    settings: ServeSettings
    path: str  # as it was asked for
    query_text: str  # behind the ?


class Page(NamedTuple):
    """A page to be made."""

    template: str
    context: dict[str, Any]
    max_age_s: int = 10
    status: int = 200


class Redirect(NamedTuple):
    """Where the page is instead."""

    location: str


Read: TypeAlias = Callable[[Ask], Awaitable[Page | Redirect | None]]
