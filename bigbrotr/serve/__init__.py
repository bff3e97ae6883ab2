"""What is answered over HTTP: health and metrics to operators, the API and the relay to others."""
