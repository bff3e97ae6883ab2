"""Tells archives apart: the profile noted beside the data, and the name of a running archive."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from bigbrotr.config.settings import Database, Profile

NOTE = "profile"  # a file in the data directory


def note_profile(data_dir: Path, profile: Profile) -> None:
    """Notes the profile of the embedded archive in `data_dir`, for the time when no server runs.

    The database knows it for sure; where nothing can be written, it is asked.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with suppress(OSError):
        descriptor = os.open(data_dir / NOTE, flags, 0o600)
        try:
            if os.geteuid() == 0 and (owner := data_dir.stat()).st_uid != 0:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.write(descriptor, f"{profile}\n".encode())
        finally:
            os.close(descriptor)


def noted_profile(data_dir: Path) -> Profile | None:
    """The profile of the embedded archive in `data_dir`; None: it is not noted."""
    try:
        descriptor = os.open(data_dir / NOTE, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return Profile(os.read(descriptor, 32).decode(errors="replace").strip())
    except ValueError:
        return None
    finally:
        os.close(descriptor)


def identity(database: Database, data_dir: Path) -> str:
    """A name for an archive, the same for all who use it by the same settings; it says nothing
    about the place to strangers."""
    place = str(data_dir.expanduser().resolve()) if database.is_embedded else database.place
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
