"""Asks a running bigbrotr over HTTP how it is."""

import http.client

ASK_S = 15.0  # longer than any of these answers takes
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- where one asks who listens on all
IDENTITY = "Bigbrotr-Archive"  # a header of the answers about health


def ask(host: str, port: int, path: str, *, identity: str = "") -> tuple[bool, str]:
    """Asks one that serves; whether it is well, and what it says. Blocks, up to `ASK_S`.

    With an `identity`, whoever tells another one is not the archive that is asked for.
    """
    place = at(host, port)
    connection = http.client.HTTPConnection(LOOPBACK.get(host, host), port, timeout=ASK_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        words = answer.read(4096).decode(errors="replace").strip()
        told = answer.headers.get(IDENTITY)
    except TimeoutError:
        return False, f"no answer from {place} within {ASK_S:.0f} s: its loop is stuck"
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        return False, f"nobody answers at {place} ({reason}): is `bigbrotr run` running?"
    finally:
        connection.close()
    if identity and told is None:
        return False, f"something else than bigbrotr answers at {place}: see [web] listen"
    if identity and told != identity:
        return False, (
            f"the bigbrotr at {place} runs another archive: this one is not running, or listens "
            "elsewhere; give each its own port in [web] listen"
        )
    return answer.status == 200, words


def at(host: str, port: int) -> str:
    """Host and port as people write them: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
