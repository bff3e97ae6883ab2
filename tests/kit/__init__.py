"""What tests share: events, relays, processes, certificates, a town of servers."""
