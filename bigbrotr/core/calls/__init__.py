"""The calls of `Brotr`: stored functions of sql/, by family."""
