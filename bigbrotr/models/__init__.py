"""Values: immutable, validated when made, free of I/O."""
