"""The monitor: checks relays, judges what it found, and words the announcements."""
