"""The Nostr protocol: pure machines, and at its edge the sockets."""
