"""The description of the API: it is one, and the API keeps to it, whatever is asked."""

import ast
import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from openapi_spec_validator import validate
from schemathesis import Case, GenerationMode
from schemathesis.checks import positive_data_acceptance

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.serve import openapi
from bigbrotr.serve.api import RESOURCES
from bigbrotr.serve.resource import Many, Resource
from bigbrotr.serve.service import PREFIX
from tests.conftest import Databases
from tests.kit.events import pubkey
from tests.kit.served import fill, fill_events, serving

# Texts of a form that a schema cannot say; and words, of which there is no index here.
OPAQUE = {"cursor", "relay", "event", "id", "author", "address", "search"}
EXAMPLES = 6  # of each resource
PAGES = 3  # of a list that is read on
SCHEMA = openapi.describe(RESOURCES, PREFIX)


class Archive(NamedTuple):
    """What is served, and names of things that are in it."""

    url: str
    known: dict[str, list[str]]  # by the name of a parameter


@pytest.fixture(scope="module")
async def archive(
    databases: Databases,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Archive]:
    """A process serves an archive in which there is something of everything."""
    name = await databases.create(Profile.FULL)
    dsn = databases.dsn(name)
    async with Brotr(Pool(dsn=dsn)) as brotr:
        relays = await fill(brotr)
        events = await fill_events(brotr)
    ids = [event.id.hex() for event in events[:25]]
    known = {
        "relay": [quote(url, safe="") for url in relays[:3]] + ["relay12.example.com"],
        "event": ids,
        "id": ids,
        "author": [pubkey(key) for key in range(3)],
        "address": [f"30023%3A{pubkey(1)}%3A", f"10002%3A{pubkey(0)}%3A"],
        "tag": ["t:nostr", "t:1", "e:" + 64 * "0", "d:"],
        "kind": ["0", "1", "10002"],
        "text": ["relay", "Relay 2"],
    }
    async with serving(tmp_path_factory.mktemp("serving"), dsn) as (running, url):
        yield Archive(url, known)
        assert await running.end() == 0
        # Whatever was asked: nothing of it is an error of ours.
        assert [line for line in running.err.splitlines() if " INFO " not in line] == []
    await databases.drop(name)


def test_the_description_is_openapi() -> None:
    validate(SCHEMA)


class Garbage:
    """It parses when it is collected, as a traceback does."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        self.parse(30)

    def parse(self, depth: int) -> None:
        if depth:
            self.parse(depth - 1)
        else:
            ast.parse("a + b")


def test_words_of_fields_are_found_while_garbage_is_collected() -> None:
    """Parsing a module fails where it is interrupted by another."""
    structs = openapi.structs_in([resource.item for resource in RESOURCES])[:20]
    words = list(map(openapi.words_of_fields, structs))
    threshold = gc.get_threshold()
    try:
        for step, struct in enumerate(structs):
            for _ in range(3):
                Garbage()
            gc.set_threshold(100 + step)
            assert openapi.words_of_fields(struct) == words[step]
    finally:
        gc.set_threshold(*threshold)
        gc.collect()  # what is left must not meet others that parse
    assert any(words)


ASKED = schemathesis.openapi.from_dict(SCHEMA)


@pytest.mark.parametrize(
    ("resource", "mode"),
    [
        pytest.param(resource, mode, id=f"{resource.name}-{mode.value}")
        for resource in RESOURCES
        for mode in GenerationMode
        if resource.parameters or mode is GenerationMode.POSITIVE
    ],
)
async def test_the_api_keeps_to_it(
    resource: Resource, mode: GenerationMode, archive: Archive
) -> None:
    """What the description allows is answered as it says, page by page; what it forbids is
    refused."""
    operation = ASKED[f"/{resource.path}"]["GET"]
    is_valid = mode is GenerationMode.POSITIVE
    reached: list[int] = []

    def call(case: Case[Any]) -> Any:
        response = case.call(base_url=archive.url)
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
        reached.append(response.status_code)
        if response.status_code == 400 and is_valid:
            problem = response.json()
            is_nul = problem["type"].endswith("#problem-bad-request")
            assert is_nul or problem["parameter"] in OPAQUE
        return response

    @hypothesis.settings(
        max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck), deadline=None
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode), st.data())
    def ask(case: Case[Any], data: st.DataObject) -> None:
        if is_valid:
            name_what_is_there(case, data)
        response = call(case)
        for _ in range(PAGES):
            if response.status_code != 200 or not isinstance(resource, Many):
                break
            if (following := response.json()["next"]) is None:
                break
            case.query["cursor"] = following
            response = call(case)
            assert response.status_code == 200

    def name_what_is_there(case: Case[Any], data: st.DataObject) -> None:
        """Puts names of things that are in the archive for most of those that were made up."""
        for place in (case.path_parameters, case.query):
            for name in sorted(archive.known.keys() & place.keys()):
                if data.draw(st.integers(0, 3)):
                    value = data.draw(st.sampled_from(archive.known[name]))
                    place[name] = value
        if data.draw(st.booleans()):
            case.query.pop("cursor", None)

    def work() -> str:
        try:
            ask()
        except BaseExceptionGroup as group:  # schemathesis' own, which would stop the event loop
            return "\n".join(map(str, group.exceptions))
        return ""

    assert await asyncio.to_thread(work) == ""
    if is_valid:
        assert 200 in reached
