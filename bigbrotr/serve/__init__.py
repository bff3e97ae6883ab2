"""What is answered over HTTP: health, metrics."""
