"""Measures which share of what archived events refer to is archived, and fetches the rest."""
