// The split document of Ballast and how a message finds its target by it, as
// docs/contracts.md says.

import { parse, Refused } from "./json.mjs";

export { Refused };

export const BUCKET = "BALLAST";
export const KEY_HEADER = "Ballast-Key";
const MAX_DOCUMENT = 64 * 1024;
const MAX_U64 = 2n ** 64n - 1n;

const name = /^[A-Za-z0-9_-]{1,64}$/;
const subject = /^(?!\$)[^.*> \t\r\n\f\0]+(\.[^.*> \t\r\n\f\0]+)*$/;
const asset = /^[^ \t\r\n\f.*>/\\]{1,255}$/;
const header = /^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$/;

const stamp = /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$/;

const refuse = (what) => {
  throw new Refused(what);
};

/** Takes the members of an object by their readers; any other member is refused. */
function members(v, what, required, optional = {}) {
  if (!(v instanceof Map)) refuse(`${what} is not an object`);
  const out = {};
  for (const [key, value] of v) {
    const read = required[key] ?? optional[key];
    if (!Object.hasOwn(required, key) && !Object.hasOwn(optional, key)) refuse(`unknown member ${key} of ${what}`);
    out[key] = read(value, `${what}.${key}`);
  }
  for (const key of Object.keys(required)) if (!(key in out)) refuse(`${what} has no ${key}`);
  return out;
}

const text = (v, what) => (typeof v === "string" ? v : refuse(`${what} is not a text`));
const like = (re, max = Infinity) => (v, what) =>
  re.test(text(v, what)) && Buffer.byteLength(v) <= max ? v : refuse(`${what}: ${JSON.stringify(v)} is not valid`);
const oneOf = (...words) => (v, what) => (words.includes(v) ? v : refuse(`${what}: ${v} is not one of ${words}`));
const time = (v, what) => {
  const day = stamp.exec(text(v, what))?.[1];
  // Date.parse makes 2 March of 30 February.
  if (!day || Number.isNaN(Date.parse(v)) || new Date(`${day}Z`).toISOString().slice(0, 19) !== day) refuse(`${what} is no time`);
  return v;
};
const u64 = (v, what) => (typeof v === "bigint" && v >= 0n && v <= MAX_U64 ? v : refuse(`${what} is not a number of 64 bits`));
const whole = (min, max) => (v, what) =>
  typeof v === "bigint" && v >= BigInt(min) && v <= BigInt(max) ? Number(v) : refuse(`${what} is not between ${min} and ${max}`);
const list = (max, read) => (v, what) => {
  if (!Array.isArray(v) || v.length > max) refuse(`${what} is not a list of at most ${max}`);
  return v.map((x, i) => read(x, `${what}.${i}`));
};
const labels = (v, what) => {
  if (!(v instanceof Map)) refuse(`${what} is not an object`);
  return Object.fromEntries([...v].map(([k, x]) => [k, text(x, `${what}.${k}`)]));
};

const target = (v, what) =>
  members(
    v,
    what,
    {
      name: like(name),
      subject: like(subject, 255),
      weight: whole(0, 100),
      tier: whole(0, 9),
      state: oneOf("READY", "DRAIN", "MAINT"),
    },
    {
      labels,
      observe: (o, at) => members(o, at, { stream: like(asset, 255), consumer: like(asset, 255) }, { account: text }),
    },
  );

const lane = (v, what) =>
  members(v, what, { name: like(name), timeoutms: whole(1, 3_600_000), retries: whole(0, 10) }, { target: like(name), fallback: like(name) });

const key = (v, what) =>
  members(v, what, {}, {
    from: oneOf("header", "token", "caller"),
    header: like(header),
    token: whole(1, 16),
    hash: oneOf("rendezvous", "ring"),
    bound: whole(101, 1000),
  });

const split = (v, what) =>
  members(
    v,
    what,
    {
      name: like(name),
      subject: like(subject, 255),
      pick: oneOf("weighted", "key"),
      driver: oneOf("kv", "mapping-jwt", "mapping-config"),
      mode: oneOf("observe", "suggest"),
      law: oneOf("capacity", "seed", "equal", "manual"),
      targets: list(256, target),
    },
    {
      order: oneOf("spread", "smooth", "random"),
      local: oneOf("two-choices"),
      key,
      spill: (s, at) => members(s, at, {}, { factor: whole(100, 1000), panic: whole(1, 100) }),
      lanes: list(8, lane),
      retry: (r, at) => members(r, at, {}, { percent: whole(1, 100), burst: whole(1, 10_000) }),
    },
  );

/**
 * Reads a document strictly. Whatever is wrong with it throws Refused, and the
 * reader keeps its last good one.
 * @param {Uint8Array} bytes
 */
export function parseDocument(bytes) {
  if (bytes.length > MAX_DOCUMENT) refuse(`${bytes.length} bytes, the limit is ${MAX_DOCUMENT}`);
  let json;
  try {
    json = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    refuse("not UTF-8");
  }
  const doc = members(parse(json), "document", {
    v: whole(1, 1),
    epoch: u64,
    rev: u64,
    base: u64,
    change: text,
    author: text,
    reason: text,
    at: time,
    split,
  });
  if (doc.rev === 0n || doc.base >= doc.rev) refuse(`revision ${doc.rev} on base ${doc.base}`);
  validate(doc.split);
  return doc;
}

/** Checks what spans several members. */
function validate(s) {
  const unique = (values, what) => {
    if (new Set(values).size !== values.length) refuse(`${what} stands twice`);
  };
  unique(s.targets.map((t) => t.name), "a target");
  unique(s.targets.map((t) => t.subject), "a subject");
  const ready = s.targets.filter((t) => t.state === "READY");
  if (ready.length === 0) refuse("no target is READY");
  if (s.targets.some((t) => t.state !== "READY" && t.weight !== 0)) refuse("a target that is not READY has a weight");
  for (const level of new Set(ready.map((t) => t.tier))) {
    const sum = ready.filter((t) => t.tier === level).reduce((n, t) => n + t.weight, 0);
    if (sum !== 100) refuse(`the weights of tier ${level} sum to ${sum}`);
  }
  if (s.local && s.pick === "key") refuse("a split that picks by key has no local rule");
  if (s.driver !== "kv") {
    if (s.pick === "key" || s.local || (s.order && s.order !== "random")) refuse("the servers' mappings draw by weight only");
    if (s.targets.some((t) => t.subject === s.subject)) refuse("a target on the split's own subject");
  }
  if (s.key) {
    const { from = "header", header: h, token = 0 } = s.key;
    if (s.pick !== "key") refuse("the split does not pick by key");
    if (h && from !== "header") refuse("a header that is not read");
    if ((from === "token") !== token > 0) refuse("a token if and only if the key is one");
  }
  unique((s.lanes ?? []).map((l) => l.name), "a lane");
  for (const l of s.lanes ?? []) {
    for (const to of [l.target, l.fallback]) if (to && !s.targets.some((t) => t.name === to)) refuse(`no target ${to}`);
    if (l.fallback && l.fallback === l.target) refuse("a fallback that is the target");
  }
}

/** Whether a document replaces the one in force. */
export function newer(doc, old) {
  return doc.epoch !== old.epoch ? doc.epoch > old.epoch : doc.rev > old.rev;
}

const GOLDEN = 0x9e3779b97f4a7c15n;
const u = (x) => BigInt.asUintN(64, x);

/** FNV-1a of the UTF-8 bytes. */
export function fnv1a(s) {
  let h = 0xcbf29ce484222325n;
  for (const b of Buffer.from(s, "utf8")) h = u((h ^ BigInt(b)) * 0x100000001b3n);
  return h;
}

/** The finaliser of splitmix64. */
export function mix(x) {
  x = u((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n);
  x = u((x ^ (x >> 27n)) * 0x94d049bb133111ebn);
  return x ^ (x >> 31n);
}

const unit = (h) => (Number(h >> 11n) + 0.5) / 2 ** 53;

/** Finds the targets of messages by one document; health is 0..1 by index of targets. */
export class Picker {
  constructor(s, health = []) {
    this.split = s;
    this.targets = [];
    this.tiers = [];
    for (const level of [...new Set(s.targets.map((t) => t.tier))].sort((a, b) => a - b)) {
      const from = this.targets.length;
      this.targets.push(...s.targets.filter((t) => t.tier === level && t.state === "READY" && t.weight > 0));
      if (this.targets.length > from) this.tiers.push({ from, to: this.targets.length });
    }
    this.hashes = this.targets.map((t) => fnv1a(t.name));
    this.health = this.targets.map((_, i) => (i < health.length ? (health[i] > 0 ? Math.min(health[i], 1) : 0) : 1));
    this.divide();
    const points = this.health.every((h) => h >= 1) ? 100 : 2000;
    const counts = apportion(this.shares, points);
    this.table = s.order === "smooth" ? smooth(counts, points) : counts.flatMap((n, i) => Array(n).fill(i));
    if (s.key?.hash === "ring") for (const t of this.tiers) t.ring = ring(this.targets, t);
  }

  /** Gives each tier its load and each target its share, by health. */
  divide() {
    const factor = (this.split.spill?.factor || 140) / 100;
    const panic = (this.split.spill?.panic || 50) / 100;
    let total = 0;
    for (const t of this.tiers) {
      t.healthy = 0;
      for (let i = t.from; i < t.to; i++) t.healthy += (this.targets[i].weight / 100) * this.health[i];
      t.carry = Math.min(1, t.healthy * factor);
      total += t.carry;
    }
    let rest = 1;
    this.shares = Array(this.targets.length).fill(0);
    this.tiers.forEach((t, n) => {
      if (total >= 1 - 1e-12) [t.load, t.panic] = [Math.min(t.carry, rest), false];
      else if (total > 0) [t.load, t.panic] = [t.carry / total, t.healthy < panic];
      else [t.load, t.panic] = [n === 0 ? 1 : 0, true];
      rest -= t.load;
      if (rest < 1e-12) rest = 0;
      t.upto = 1 - rest;
      for (let i = t.from; i < t.to; i++) {
        const w = (t.load * this.targets[i].weight) / 100;
        if (t.panic) this.shares[i] = w;
        else if (t.healthy > 0) this.shares[i] = (w * this.health[i]) / t.healthy;
      }
    });
  }

  /** The target of a publisher's n-th message, by weight. n is a BigInt. */
  nth(n) {
    const size = BigInt(this.table.length);
    if (this.split.order === "smooth") return this.targets[this.table[Number(u(n) % size)]];
    let at = u(n * GOLDEN);
    if (this.split.order === "random") at = mix(at);
    return this.targets[this.table[Number((at * size) >> 64n)]];
  }

  /** The target of a key. */
  byKey(key) {
    const k = fnv1a(key);
    let t = this.tiers[0];
    if (t.load < 1) {
      const at = unit(mix(k ^ GOLDEN));
      t = this.tiers.find((x) => at < x.upto) ?? this.tiers.at(-1);
    }
    return this.targets[t.ring ? this.clockwise(t, k) : this.highest(t, k)];
  }

  highest(t, k) {
    let best = -Infinity;
    let at = -1;
    for (let i = t.from; i < t.to; i++) {
      if (this.shares[i] === 0) continue;
      const score = -this.shares[i] / Math.log(unit(mix(k ^ this.hashes[i])));
      if (score > best) [best, at] = [score, i];
    }
    return at;
  }

  clockwise(t, k) {
    const h = mix(k);
    let start = t.ring.findIndex((v) => v.hash >= h);
    if (start < 0) start = 0;
    let last = -1;
    for (let n = 0; n < t.ring.length; n++) {
      const i = t.ring[(start + n) % t.ring.length].target;
      if (this.shares[i] === 0) continue;
      if (t.panic || this.health[i] === 1 || unit(mix(k ^ this.hashes[i])) < this.health[i]) return i;
      last = i;
    }
    return last;
  }
}

/** Gives each share its part of n points, by largest remainder. */
function apportion(shares, n) {
  const counts = shares.map((s) => Math.floor(s * n + 1e-9));
  const rest = shares.map((s, i) => s * n - counts[i]);
  const left = n - counts.reduce((a, b) => a + b, 0);
  const order = shares.map((_, i) => i).sort((a, b) => rest[b] - rest[a] || a - b);
  for (const i of order.slice(0, Math.max(left, 0))) counts[i]++;
  return counts;
}

/** The order in which smooth weighted round robin visits n points. */
function smooth(counts, n) {
  const credit = counts.map(() => 0);
  return Array.from({ length: n }, () => {
    let best = -1;
    counts.forEach((c, i) => {
      if (c === 0) return;
      credit[i] += c;
      if (best < 0 || credit[i] > credit[best]) best = i;
    });
    credit[best] -= n;
    return best;
  });
}

/** The virtual nodes of a tier. */
function ring(targets, { from, to }) {
  const nodes = [];
  for (let i = from; i < to; i++) {
    const n = Math.max(1, Math.round((160 * (to - from) * targets[i].weight) / 100));
    for (let v = 0; v < n; v++) nodes.push({ hash: mix(fnv1a(`${targets[i].name}#${v}`)), target: i });
  }
  return nodes.sort((a, b) => (a.hash < b.hash ? -1 : a.hash > b.hash ? 1 : a.target - b.target));
}
