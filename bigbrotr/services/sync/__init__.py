"""The synchronizer: copies every event of every relay, from the service down to the page."""
