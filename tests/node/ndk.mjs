// NDK: fetches, counts, reconciles by its package sync, and is told of what comes.
import { end, filter, held, hear, say, url } from "./connect.mjs";
const { default: NDK, NDKEvent, NDKSubscriptionCacheUsage } = await import("@nostr-dev-kit/ndk");
const { NDKSync } = await import("@nostr-dev-kit/sync");

const kept = new Map();
const cacheAdapter = {
  locking: false,
  query: () => [...kept.values()],
  setEvent: async (event) => void kept.set(event.id, event),
};
const ndk = new NDK({ explicitRelayUrls: [url], cacheAdapter, enableOutboxModel: false });
await ndk.connect(5000);
const fresh = { cacheUsage: NDKSubscriptionCacheUsage.ONLY_RELAY };

const fetched = await ndk.fetchEvents({ ...filter, limit: 100 }, fresh);
say("fetch", [...fetched].map((event) => event.id));

const all = new Set();
for (let until; ; ) {
  const asked = until === undefined ? { limit: 100 } : { limit: 100, until };
  const page = [...(await ndk.fetchEvents(asked, fresh))];
  const before = all.size;
  page.forEach((event) => all.add(event.id));
  if (all.size === before) break;
  until = Math.min(...page.map((event) => event.created_at));
}
say("pages", [...all]);

say("count", (await ndk.count([filter])).count);

kept.clear();
held.forEach((event) => kept.set(event.id, new NDKEvent(ndk, event)));
const sync = new NDKSync(ndk);
say("supports", await sync.checkRelaySupport(ndk.pool.relays.values().next().value));
const differs = await sync.sync({ until: 2000000000 });
say("have", [...differs.have]);
say("need", [...differs.need]);
say("synchronized", [...kept.keys()]);

const subscription = ndk.subscribe({ limit: 0, ...filter }, { ...fresh, closeOnEose: false });
subscription.on("eose", () => say("subscribed", true));
subscription.on("event", (event) => say("event", event.id));
await hear();
end();
