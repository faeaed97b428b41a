// Passes the vectors of docs/contracts, or says where it does not:
//   node conformance.mjs ../../contracts/vectors.json

import { readFileSync } from "node:fs";
import { newer, parseDocument, Picker, Refused } from "./split.mjs";

const vectors = JSON.parse(readFileSync(process.argv[2], "utf8"));
let checked = 0;
let wrong = 0;
const same = (got, want, what) => {
  checked++;
  if (JSON.stringify(got) !== JSON.stringify(want)) {
    wrong++;
    console.error(`${what}: ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
  }
};

for (const { name, doc, takes } of vectors.documents) {
  let taken = true;
  try {
    parseDocument(Buffer.from(doc));
  } catch (err) {
    if (!(err instanceof Refused)) throw err;
    taken = false;
  }
  same(taken, takes, `document "${name}"`);
}
for (const v of vectors.newer) {
  const [old, next] = [
    { epoch: BigInt(v.epoch), rev: BigInt(v.rev) },
    { epoch: BigInt(v.newepoch), rev: BigInt(v.newrev) },
  ];
  same(newer(next, old), v.takes, `newer ${JSON.stringify(v)}`);
}
for (const v of vectors.weighted) {
  const p = new Picker(v.split, v.health);
  same(v.picks.map((_, i) => p.nth(BigInt(v.from) + BigInt(i)).name), v.picks, `order ${v.split.order} from ${v.from} health ${v.health}`);
}
for (const v of vectors.keys) {
  const p = new Picker(v.split, v.health);
  for (const [key, want] of Object.entries(v.picks)) same(p.byKey(key).name, want, `key ${key} hash ${v.split.key.hash} health ${v.health}`);
}
for (const v of vectors.shares) {
  const p = new Picker(v.split, v.health);
  same(p.shares.map((x) => x.toFixed(9)), v.shares.map((x) => x.toFixed(9)), `shares with health ${v.health}`);
}
console.log(`${checked} checked, ${wrong} wrong`);
process.exit(wrong === 0 && checked > 0 ? 0 : 1);
