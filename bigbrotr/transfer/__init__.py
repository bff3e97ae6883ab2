"""Transfer: takes an archive's events home as files, and brings them back in."""
