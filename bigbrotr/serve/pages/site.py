"""Finds the page for a path, asks for what is on it, and makes it from its template."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any

import jinja2
from msgspec import Struct

from bigbrotr import __version__
from bigbrotr.config.settings import ServeSettings
from bigbrotr.core.pool import Pool
from bigbrotr.serve.pages import (
    about,
    badge,
    event,
    feeds,
    figures,
    overview,
    person,
    picture,
    relay,
    relay_table,
    risk,
    search,
    words,
    world,
)
from bigbrotr.serve.pages.page import POLICY, Ask, Drawn, Page, Read, Redirect
from bigbrotr.serve.parameters import decoded, parameters_of, read_parameters, split_query
from bigbrotr.serve.problems import RefusedError
from bigbrotr.serve.resource import Form, ListQuery, Many, Query


class Route(Struct, frozen=True, dict=True):
    """A kind of page: its path with {names}, of which the last may hold slashes; its parameters."""

    path: str
    read: Read
    query: type[Query] = Query

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What its paths look like."""
        parts = re.split(r"\{(\w+)\}", self.path)
        text = "".join(
            f"(?P<{part}>.+)" if number % 2 else re.escape(part)
            for number, part in enumerate(parts)
        )
        return re.compile(text)

    @cached_property
    def parameters(self) -> Any:
        """By name."""
        return parameters_of(self.query, self.path)


ROUTES: Sequence[Route] = (
    Route("/", overview.page),
    Route("/picture.png", picture.of_archive),
    Route("/relays", relay_table.page, relay_table.RelaysQuery),
    Route("/relays.atom", feeds.new_relays),
    Route("/relays/{relay}/badge.svg", badge.page, relay.RelayQuery),
    Route("/relays/{relay}/picture.png", picture.of_relay, relay.RelayQuery),
    Route("/relays/{relay}/incidents.atom", feeds.incidents, relay.RelayQuery),
    Route("/relays/{relay}", relay.page, relay.RelayQuery),
    Route("/map", relay_table.world_map),
    Route("/events/{event}/picture.png", picture.of_event, event.EventQuery),
    Route("/events/{event}", event.page, event.EventQuery),
    Route("/authors/{author}/picture.png", picture.of_person, person.PersonQuery),
    Route("/authors/{author}", person.page, person.PersonQuery),
    Route("/search", search.page, search.SearchQuery),
    Route("/statistics", figures.index),
    Route("/statistics/{name}", figures.page, figures.FiguresQuery),
    Route("/at-risk", risk.page, risk.RiskQuery),
    Route("/data", about.data),
    Route("/about", about.page),
)


DOWNLOADS = (
    (re.compile("/authors/([0-9a-f]{64})/events[.]jsonl"), person.download),
    (re.compile("/statistics/([a-z_]+)[.]csv"), figures.download),
)


class Made(Struct, frozen=True):
    """A page as it is sent."""

    body: bytes
    kind: str
    max_age_s: int
    status: int = 200
    policy: str = POLICY  # for its content


class Site:
    """All pages of one archive."""

    def __init__(self, pool: Pool, settings: ServeSettings) -> None:
        self._pool = pool
        self._settings = settings
        style = files(__package__).joinpath("static/style.css").read_bytes()
        digest = hashlib.sha256(style, usedforsecurity=False).hexdigest()[:12]
        self.files = {f"/static/style.{digest}.css": (style, "text/css; charset=utf-8")}
        self._templates = _environment(
            {
                "style": f"/static/style.{digest}.css",
                "version": __version__,
                "name": settings.relay.name,
                "land": world.land,
                "site": settings.public_url and settings.public_url.rstrip("/"),
            }
        )

    def download(self, path: str) -> tuple[Many, ListQuery, None, Form] | None:
        """The file at a path: a list, and how it is written; None: there is none."""
        for pattern, make in DOWNLOADS:
            if (match := pattern.fullmatch(path)) is not None:
                return make(match[1])
        return None

    async def make(self, path: str, query: str) -> Made | Redirect | None:
        """The page at a path; None: there is none.

        Raises:
            RefusedError: the parameters are wrong, or what is asked for is not here.
        """
        plain = decoded(path)
        for route in ROUTES:
            if (match := route.pattern.fullmatch(plain)) is not None:
                break
        else:
            return None
        # Forms send what was left empty as well.
        given = [(name, value) for name, value in split_query(query) if value]
        asked = read_parameters(route.query, route.parameters, match.groupdict(), given)
        found = await route.read(Ask(self._pool, asked, self._settings, path, query))
        if found is None:
            raise RefusedError("not-found", "this archive knows nothing of that")
        if isinstance(found, Redirect):
            return found
        if isinstance(found, Drawn):
            return Made(found.body, found.kind, found.max_age_s)
        return self._render(found)

    def problem(self, error: RefusedError) -> Made:
        """The page that says what is wrong."""
        context = {"error": error, "problem": error.problem("/api/v1/")}
        return self._render(Page("problem.html", context, 0, error.status))

    def _render(self, page: Page) -> Made:
        text = self._templates.get_template(page.template).render(page.context)
        return Made(
            text.encode("utf-8", "replace"), page.kind, page.max_age_s, page.status, page.policy
        )


def _environment(known: Mapping[str, Any]) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals.update(known)
    made.filters.update(
        {
            "number": words.number,
            "of": words.count,
            "short": words.short,
            "share": words.share,
            "size": words.size,
            "ms": words.milliseconds,
            "duration": words.duration,
            "when": words.when,
            "date": words.date,
            "moment": words.moment,
            "clean": words.clean,
            "foreign": words.foreign,
            "npub": words.npub,
            "brief": words.brief,
            "host": words.host,
            "path": words.path_of,
            "rfc3339": words.rfc3339,
        }
    )
    return made
