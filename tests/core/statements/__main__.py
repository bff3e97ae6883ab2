"""Writes the statements of the current revision down."""

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from bigbrotr.config.settings import Profile
from bigbrotr.core.schema import Schema
from bigbrotr.embedded.server import EmbeddedPostgres
from tests.core.statements import path_of, record


async def main() -> None:
    with TemporaryDirectory(prefix="bigbrotr-statements-") as place:
        async with EmbeddedPostgres(Path(place) / "data") as server:
            connection = await asyncpg.connect(server.url)
            await Schema().migrate(connection, Profile.FULL, int(time.time()))
            path_of(Schema().revision).write_text(await record(connection))
            await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
