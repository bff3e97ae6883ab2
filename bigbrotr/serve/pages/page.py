"""Declares what a page is: a template, what it shows, and how long that is good for."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from bigbrotr.config.settings import ServeSettings
from bigbrotr.core.pool import Pool

HTML = "text/html; charset=utf-8"
SVG = "image/svg+xml"
ATOM = "application/atom+xml; charset=utf-8"


class Ask(NamedTuple):
    """A question: who can answer it, and how it was put."""

    pool: Pool
    query: Any  # the struct of the route
    settings: ServeSettings
    path: str  # as it was asked for
    query_text: str  # behind the ?

    @property
    def site(self) -> str:
        """Where others find the pages: http(s)://host, without a slash at the end."""
        return (self.settings.public_url or f"http://{self.settings.listen}").rstrip("/")


class Page(NamedTuple):
    """A page to be made."""

    template: str
    context: dict[str, Any]
    max_age_s: int = 10
    status: int = 200
    kind: str = HTML  # its content type


class Redirect(NamedTuple):
    """Where the page is instead."""

    location: str


Read: TypeAlias = Callable[[Ask], Awaitable[Page | Redirect | None]]
