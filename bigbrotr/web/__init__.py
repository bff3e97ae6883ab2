"""What bigbrotr tells over HTTP."""
