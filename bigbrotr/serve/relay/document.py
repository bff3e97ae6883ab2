"""The relay's own document (NIP-11), with the limits that hold."""

from typing import Any

import msgspec

from bigbrotr import __version__
from bigbrotr.config.settings import ServeRelaySettings
from bigbrotr.serve.relay.messages import MAX_SUBSCRIPTION

KIND = "application/nostr+json"


def document(
    settings: ServeRelaySettings, *, is_archive: bool, keeps_events: bool, is_searched: bool
) -> bytes:
    """The document of a view, as JSON; `is_searched`: there is an index of words."""
    limits = settings.limits
    nips = {11, 45, 77}
    if keeps_events:
        nips.add(1)
        if settings.hints:
            nips.add(67)
        if is_searched:
            nips.add(50)
    if settings.auth:
        nips.add(42)
    more = " Old versions of replaceable events included." if is_archive else ""
    found: dict[str, Any] = {
        "name": settings.name,
        "description": settings.description + more,
        "icon": settings.icon,
        "pubkey": settings.pubkey,
        "self": settings.own_pubkey,
        "contact": settings.contact,
        "supported_nips": sorted(nips),
        "software": "bigbrotr",
        "version": __version__,
        "limitation": {
            "max_message_length": limits.max_message_bytes,
            "max_subscriptions": limits.max_subscriptions,
            "max_filters": limits.max_filters,
            "max_limit": limits.max_limit,
            "default_limit": min(limits.default_limit, limits.max_limit),
            "max_subid_length": MAX_SUBSCRIPTION,
            "auth_required": settings.auth,
            "payment_required": False,
            "restricted_writes": True,
        },
    }
    return msgspec.json.encode({name: value for name, value in found.items() if value is not None})
