"""Secrets: read from the environment, or from files that it names, and from nowhere else; and what
looks like one in a text that is about to be shown."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from bigbrotr.errors import ConfigError

MAX_SECRET = 4096  # bytes of a file; no secret of ours is longer
HIDDEN = "***"

_PRIVATE_KEY = re.compile(r"\b(?:nsec|ncryptsec)1\w+", re.IGNORECASE)
# A word of its own: in a path it is a name. An id has as many digits, and is never refused.
_NUMBER = re.compile(r"(?<![\w./-])[0-9a-fA-F]{64}(?![\w./-])")
_USER_INFO = re.compile(r"((?:://|\b)[^\s:@/?#'\"]*):(?!//)\S*@")
_PARAMETER = re.compile(
    r"\b((?:\w*passw?o?r?d|pwd|\w*secret|\w*token|(?:\w*[_-])?key|auth)=)[^\s&;'\"]+", re.IGNORECASE
)


def without_secrets(text: str) -> str:
    """The text with `***` in place of what may be one: private keys, and passwords in URLs or
    behind `password=` and the like."""
    text = _USER_INFO.sub(rf"\1:{HIDDEN}@", _PRIVATE_KEY.sub(HIDDEN, text))
    return _NUMBER.sub(HIDDEN, _PARAMETER.sub(rf"\1{HIDDEN}", text))


def read_secret(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """A secret by the name of its environment variable; None if it is not set.

    Looked for in this order: the variable `NAME`; the file that the variable `NAME_FILE` names;
    the file `NAME` or `name` in systemd's `$CREDENTIALS_DIRECTORY`. A blank variable counts as
    unset; what a file holds is stripped. ConfigError if a file cannot be read, is empty, or is no
    text.
    """
    env = os.environ if environ is None else environ
    value = env.get(name, "")
    if value.strip():
        return value
    if file := env.get(f"{name}_FILE", "").strip():
        return read_secret_file(name, Path(file))
    if directory := env.get("CREDENTIALS_DIRECTORY", ""):
        for spelling in (name, name.lower()):
            path = Path(directory) / spelling
            try:
                path.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # a secret that may be there is not taken for none
                raise ConfigError(
                    f"cannot look for {name} in {directory!r}: {error.strerror}"
                ) from None
            return read_secret_file(name, path)
    return None


def read_secret_file(name: str, path: Path) -> str:
    """The stripped text of a small file that holds the secret `name`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(f"cannot read {name} from {str(path)!r}: {reason}") from None
    secret = content.decode("utf-8-sig", "replace").strip()
    if not secret or len(content) > MAX_SECRET or "\ufffd" in secret:
        raise ConfigError(f"{str(path)!r}, which should hold {name}, is empty, too long or no text")
    return secret
