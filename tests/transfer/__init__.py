"""Files of events: exported, imported and verified on real PostgreSQL."""
