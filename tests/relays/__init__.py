"""Relays to test against: real ones, a scriptable one with vices, and the model behind it."""
