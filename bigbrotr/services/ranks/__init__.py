"""Ranks: what is counted of events, who is ranked by follows, and what is published of it."""
