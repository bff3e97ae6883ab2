"""Finds the files that travel with the package: the schema, the profiles, the dashboards."""

from pathlib import Path

import bigbrotr


def shipped(name: str) -> Path:
    """A file or folder that travels with the package: `sql`, `configs` or something in them.

    In a wheel they lie inside the package, in a checkout beside it.
    """
    package = Path(bigbrotr.__file__).parent
    inside = package / name
    return inside if inside.exists() else package.parent / name
