"""A PostgreSQL server of our own: its directory, its settings, its life, and dumps of it."""
