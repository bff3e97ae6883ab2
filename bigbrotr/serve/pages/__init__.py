"""Pages for people: made here, readable without scripts, without a request to any other host."""
