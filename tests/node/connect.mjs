// What the clients share: WebSocket for those that expect a browser, and lines of JSON for the test.
import { once } from "node:events";
import { createInterface } from "node:readline";
import WebSocket from "ws";

globalThis.WebSocket ??= WebSocket;

const lines = createInterface({ input: process.stdin });

/** Says what a client has found, by a name. */
export function say(name, found) {
  process.stdout.write(JSON.stringify([name, found]) + "\n");
}

/** The next line that the test says, decoded. */
export async function hear() {
  const [line] = await once(lines, "line");
  return JSON.parse(line);
}

/** The relay, whom it shall be asked about, and the events that the client has already. */
export const { url, filter, held } = await hear();

/** Ends, whatever is still open. */
export function end() {
  process.exit(0);
}
