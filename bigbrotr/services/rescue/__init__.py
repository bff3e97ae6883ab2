"""Sends archived events to relays that do not hold them: which ones, to whom, and how politely."""
