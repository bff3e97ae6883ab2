"""Declares what can go wrong with a request, and says it as application/problem+json (RFC 9457)."""

from typing import NamedTuple

from msgspec import Struct

TYPE = "application/problem+json"


class Kind(NamedTuple):
    """A kind of problem: its status of HTTP, and what it means."""

    status: int
    title: str


PROBLEMS: dict[str, Kind] = {
    "unknown-parameter": Kind(400, "There is no such parameter"),
    "bad-parameter": Kind(400, "A parameter has a value that it cannot have"),
    "bad-cursor": Kind(400, "The cursor is none of ours, or of another question"),
    "bad-request": Kind(400, "The request is not HTTP as it should be"),
    "foreign-origin": Kind(403, "A page of another site may not read this server"),
    "not-found": Kind(404, "There is no such thing"),
    "not-kept": Kind(404, "This archive does not keep what that takes"),
    "method-not-allowed": Kind(405, "Nothing can be changed here"),
    "wrong-host": Kind(421, "This server is not called that"),
    "too-many-requests": Kind(429, "Too many requests from one address"),
    "defect": Kind(500, "A defect of bigbrotr"),
    "busy": Kind(503, "Too many questions at once"),
    "too-slow": Kind(503, "The answer took too long"),
    "not-settled": Kind(503, "It is not known yet which events may be shown"),
    "database-away": Kind(503, "The database does not answer now"),
}


class Problem(Struct, frozen=True, omit_defaults=True):
    """What is wrong, and what to do."""

    type: str  # a link to the kind
    title: str  # of the kind
    status: int  # of HTTP
    detail: str  # of this case
    parameter: str | None = None  # that is wrong


class RefusedError(Exception):
    """A request is refused; `kind` is one of PROBLEMS."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        parameter: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.parameter = parameter
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """Of HTTP."""
        return PROBLEMS[self.kind].status

    def problem(self, reference: str) -> Problem:
        """As it is sent; `reference`: the page that explains the kinds."""
        return Problem(
            f"{reference}#problem-{self.kind}",
            PROBLEMS[self.kind].title,
            self.status,
            self.detail,
            self.parameter,
        )
