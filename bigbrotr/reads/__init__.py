"""Answers questions about the archive, in typed values: what `status`, `where` and programs ask."""
