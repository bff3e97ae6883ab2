"""Declares what a page is: a template, what it shows, and how long that is good for."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from bigbrotr.config.settings import ServeSettings
from bigbrotr.core.pool import Pool

# Everything comes from here, and no script runs that is not a file of ours.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
# Where somebody asked for pictures that are elsewhere.
WITH_PICTURES = POLICY.replace("img-src 'self' data:", "img-src 'self' data: https:")
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
    policy: str = POLICY  # for its content


class Drawn(NamedTuple):
    """A picture that has been made."""

    body: bytes
    kind: str  # its content type
    max_age_s: int


class Redirect(NamedTuple):
    """Where the page is instead."""

    location: str


Read: TypeAlias = Callable[[Ask], Awaitable[Page | Drawn | Redirect | None]]
