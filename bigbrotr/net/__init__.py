"""The network below Nostr: sockets, WebSockets, HTTP, names, and how politely all of it is used."""
