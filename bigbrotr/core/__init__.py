"""What every service stands on: the database, the log, the shape of a service."""
