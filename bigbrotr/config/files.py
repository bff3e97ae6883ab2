"""Looks at the files that settings name, before anything is made of them."""

from collections.abc import Collection, Iterator
from pathlib import Path

from bigbrotr.config.settings import Config
from bigbrotr.config.toml import Keys, Mistake, where
from bigbrotr.errors import ConfigError


def named(config: Config) -> Iterator[tuple[Keys, str]]:
    """The settings that name a file, and the files; the first key is the service that reads it."""
    geo = config.monitor.geo
    for keys, file in (
        (("seeder", "file"), config.seeder.file),
        (("monitor", "geo", "city_db"), geo.city_db),
        (("monitor", "geo", "asn_db"), geo.asn_db),
    ):
        if file is not None:
            yield keys, file


def unreadable(config: Config, services: Collection[str] | None = None) -> list[Mistake]:
    """What is wrong with the files that settings name: of these services, or of all."""
    found = []
    for keys, file in named(config):
        if services is not None and keys[0] not in services:
            continue
        try:
            with Path(file).open("rb"):
                pass
        except (OSError, ValueError) as error:  # ValueError: no path, or none in this locale
            reason = getattr(error, "strerror", None) or error
            found.append(Mistake(keys, f"{where(keys)}: cannot read {file}: {reason}"))
    return found


def check(config: Config, services: Collection[str] | None = None) -> None:
    """Sees to it that the files that settings name can be read: of these services, or of all.

    Raises:
        ConfigError: a line for each that cannot.
    """
    if found := unreadable(config, services):
        raise ConfigError("\n".join(mistake.words for mistake in found))
