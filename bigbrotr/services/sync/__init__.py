"""The synchronizer: copies every event of every relay, from the service down to the page.

One event, from a socket to a table: a `worker` claims a relay and makes a `visit`, which asks for
a span in a way that the relay understands (`ways`). A walk (`pages`) fetches page after page over
the `conversation`, as `nostr/paging` says; `ingest` sorts each one out, verifies what is new (in a
process beside: `verifier`), and stores it with what the page proves. `late` takes what came too
late; `absences` ends what the relay holds no longer.

Where both sides know most of a span, `reconcile` compares ids instead: `honesty` tests what the
relay names, `fetch_by_id` gets what we lack, `holdings` records who holds what. A relay that is
complete is followed (`live`). All of them share one frozen context and one state (`context`).
"""
