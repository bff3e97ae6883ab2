"""The services: each claims work, acts, records, rests."""
