"""bigbrotr: an observatory and archive of the Nostr network."""

__version__ = "0.1.0"
