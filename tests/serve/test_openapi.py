"""The description of the API: it is one, and the API keeps to it, whatever is asked."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from openapi_spec_validator import validate
from schemathesis import Case, GenerationMode
from schemathesis.checks import positive_data_acceptance

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.serve import openapi
from bigbrotr.serve.api import RESOURCES
from bigbrotr.serve.resource import Resource
from bigbrotr.serve.service import PREFIX
from tests.conftest import Databases
from tests.kit.served import fill, serving

# Texts of a form that a schema cannot say.
OPAQUE = {"cursor", "relay", "event", "id", "author"}
EXAMPLES = 12  # of each resource
SCHEMA = openapi.describe(RESOURCES, PREFIX)


@pytest.fixture(scope="module")
async def url(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Where a process serves an archive in which there is something."""
    name = await databases.create(Profile.FULL)
    dsn = databases.dsn(name)
    async with Brotr(Pool(dsn=dsn)) as brotr:
        await fill(brotr)
    async with serving(tmp_path_factory.mktemp("serving"), dsn) as (running, found):
        yield found
        assert await running.end() == 0
        # Whatever was asked: nothing of it is an error of ours.
        assert [line for line in running.err.splitlines() if " INFO " not in line] == []
    await databases.drop(name)


def test_the_description_is_openapi() -> None:
    validate(SCHEMA)


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
async def test_the_api_keeps_to_it(resource: Resource, mode: GenerationMode, url: str) -> None:
    """What the description allows is answered as it says; what it forbids is refused."""
    operation = ASKED[f"/{resource.path}"]["GET"]

    @hypothesis.settings(
        max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck), deadline=None
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        response = case.call(base_url=url)
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
        if response.status_code == 400 and mode is GenerationMode.POSITIVE:
            problem = response.json()
            is_nul = problem["type"].endswith("#problem-bad-request")
            assert is_nul or problem["parameter"] in OPAQUE

    def work() -> str:
        try:
            ask()
        except BaseExceptionGroup as group:  # schemathesis' own, which would stop the event loop
            return "\n".join(map(str, group.exceptions))
        return ""

    assert await asyncio.to_thread(work) == ""
