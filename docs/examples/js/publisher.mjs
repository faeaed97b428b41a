// A publisher that follows a split: it keeps the last good document whatever
// happens, and needs no console.

import { randomBytes } from "node:crypto";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { connect } from "@nats-io/transport-node";
import { Kvm } from "@nats-io/kv";
import { BUCKET, KEY_HEADER, newer, parseDocument, Picker } from "./split.mjs";

export class Publisher {
  #nc;
  #split;
  #picker;
  #doc;
  #turn = randomBytes(8).readBigUInt64BE(); // so that publishers are not in step
  #stopped = false;
  #watch;

  /** @param log is told once what happens: taken and refused documents, trouble. */
  constructor(nc, split, { turn, log = () => {} } = {}) {
    this.#nc = nc;
    this.#split = split;
    this.log = log;
    if (turn !== undefined) this.#turn = turn;
  }

  /** The document in force, undefined before the first. */
  get document() {
    return this.#doc;
  }

  /** Follows the document until stop is called. */
  async run() {
    while (!this.#stopped) {
      try {
        const kv = await new Kvm(this.#nc).open(BUCKET);
        this.#watch = await kv.watch({ key: `split.${this.#split}` });
        for await (const entry of this.#watch) this.#take(entry);
      } catch (err) {
        this.log(`the weights are not followed, trying again: ${err.message}`);
      }
      if (!this.#stopped) await new Promise((done) => setTimeout(done, 1000 * (0.8 + 0.4 * Math.random())));
    }
  }

  stop() {
    this.#stopped = true;
    this.#watch?.stop();
  }

  #take(entry) {
    try {
      if (entry.operation !== "PUT") throw new Error(`the document was deleted (${entry.operation})`);
      const doc = parseDocument(entry.value);
      if (doc.split.name !== this.#split) throw new Error(`the document is of split ${doc.split.name}`);
      if (this.#doc && !newer(doc, this.#doc)) {
        if (doc.epoch === this.#doc.epoch && doc.rev === this.#doc.rev) return; // said again
        throw new Error(`epoch ${doc.epoch} revision ${doc.rev} is older`);
      }
      this.#picker = new Picker(doc.split);
      this.#doc = doc;
      this.log(`epoch ${doc.epoch} revision ${doc.rev} is in force`);
    } catch (err) {
      this.log(`refused, the last weights stay: ${err.message}`);
    }
  }

  /** The target of the next message. */
  pick(headers, subject, key) {
    if (!this.#picker) throw new Error(`the weights of split ${this.#split} are not known yet`);
    const s = this.#doc.split;
    if (s.pick === "key") {
      const from = s.key?.from ?? "header";
      if (from === "header") key ??= headers?.get(s.key?.header ?? KEY_HEADER);
      if (from === "token") key ??= subject?.split(".")[s.key.token - 1];
      if (key) return this.#picker.byKey(key);
    }
    this.#turn++;
    return this.#picker.nth(this.#turn);
  }

  /** Sends a message to the picked target and returns the target. */
  publish(data, { headers, subject, key } = {}) {
    const target = this.pick(headers, subject, key);
    this.#nc.publish(target.subject, data, { headers });
    return target;
  }
}

// Each line of the standard input is a message; the target's name is printed.
//   seq 1000 | node publisher.mjs nats://127.0.0.1:4222 orders
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [url = "nats://127.0.0.1:4222", split = "orders"] = process.argv.slice(2);
  const nc = await connect({ servers: url, maxReconnectAttempts: -1 });
  const publisher = new Publisher(nc, split, { log: console.error });
  const running = publisher.run();
  while (!publisher.document) await new Promise((done) => setTimeout(done, 20));
  for await (const line of createInterface({ input: process.stdin })) console.log(publisher.publish(line).name);
  publisher.stop();
  await nc.drain();
  await running;
}
