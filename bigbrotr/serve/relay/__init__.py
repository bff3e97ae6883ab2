"""The archive as a relay: Nostr clients read it over WebSocket (NIP-01, 11, 42, 45, 67, 77)."""
