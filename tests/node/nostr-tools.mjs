// nostr-tools: fetches, pages, counts, reconciles, and is told of what comes.
import { end, filter, held, hear, say, url } from "./connect.mjs";
const { Relay } = await import("nostr-tools/relay");
const { SimplePool } = await import("nostr-tools/pool");
const { NegentropyStorageVector, NegentropySync } = await import("./node_modules/nostr-tools/lib/esm/nip77.js");

const pool = new SimplePool();
const fetched = await pool.querySync([url], { ...filter, limit: 100 });
say("fetch", fetched.map((event) => event.id));

const all = new Map();
for (let until; ; ) {
  const page = await pool.querySync([url], until === undefined ? { limit: 100 } : { limit: 100, until });
  const before = all.size;
  page.forEach((event) => all.set(event.id, event));
  if (all.size === before) break;
  until = Math.min(...page.map((event) => event.created_at));
}
say("pages", [...all.keys()]);

const relay = await Relay.connect(url);
say("count", await relay.count([filter], {}));

const storage = new NegentropyStorageVector();
held.forEach((event) => storage.insert(event.created_at, event.id));
storage.seal();
const have = [];
const need = [];
await new Promise((resolve) => {
  const sync = new NegentropySync(relay, storage, {}, {
    onhave: (id) => have.push(id),
    onneed: (id) => need.push(id),
    onclose: resolve,
  });
  sync.start();
});
say("have", have);
say("need", need);

pool.subscribeMany([url], { limit: 0, ...filter }, {
  oneose: () => say("subscribed", true),
  onevent: (event) => say("event", event.id),
});
await hear();
end();
