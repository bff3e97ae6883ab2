// nostr-fetch: the latest events, those of an author, and the whole history.
import { end, filter, held, say, url } from "./connect.mjs";
import WebSocket from "ws";
const { NostrFetcher } = await import("nostr-fetch");

const fetcher = NostrFetcher.init({ webSocketConstructor: WebSocket });
const latest = await fetcher.fetchLatestEvents([url], filter, 100);
say("fetch", latest.map((event) => event.id));

const all = await fetcher.fetchAllEvents([url], {}, {}, { limitPerReq: 100 });
say("pages", all.map((event) => event.id));

const authors = [...new Set(held.map((event) => event.pubkey))];
const last = [];
for await (const { event } of fetcher.fetchLastEventPerAuthor({ authors, relayUrls: [url] }, {})) {
  last.push(event.id);
}
say("last", last);
fetcher.shutdown();
end();
