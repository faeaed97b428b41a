// A strict JSON reader: JSON.parse lets members stand twice and rounds integers
// beyond 2^53, and a document that two readers read differently divides the
// messages in two ways. It knows no null, and of numbers only whole ones that are
// not negative: a document has no others.

/** Thrown for whatever is wrong with a document. */
export class Refused extends Error {}

/**
 * Reads one JSON value. Numbers become BigInt, objects Map.
 * @param {string} text
 */
export function parse(text) {
  let at = 0;
  const refuse = (what) => {
    throw new Refused(`${what} at character ${at}`);
  };
  const space = () => {
    while (at < text.length && " \t\r\n".includes(text[at])) at++;
  };
  const expect = (c) => {
    if (text[at] !== c) refuse(`expected ${c}`);
    at++;
  };
  const string = () => {
    const start = at;
    expect('"');
    for (; text[at] !== '"'; at++) {
      if (at >= text.length || text[at] < " ") refuse("a text that does not end");
      if (text[at] === "\\") at++;
    }
    at++;
    try {
      return JSON.parse(text.slice(start, at));
    } catch {
      return refuse("a text that is not one");
    }
  };
  const value = (depth) => {
    if (depth > 8) refuse("too deep");
    space();
    switch (text[at]) {
      case "{": {
        const members = new Map();
        at++;
        space();
        if (text[at] === "}") {
          at++;
          return members;
        }
        for (;;) {
          space();
          const name = string();
          if (members.has(name)) refuse(`member ${name} stands twice`);
          space();
          expect(":");
          members.set(name, value(depth + 1));
          space();
          if (text[at] === "}") {
            at++;
            return members;
          }
          expect(",");
        }
      }
      case "[": {
        const items = [];
        at++;
        space();
        if (text[at] === "]") {
          at++;
          return items;
        }
        for (;;) {
          items.push(value(depth + 1));
          space();
          if (text[at] === "]") {
            at++;
            return items;
          }
          expect(",");
        }
      }
      case '"':
        return string();
    }
    const word = /^(true|false|0|[1-9]\d*)(?![\w.])/.exec(text.slice(at, at + 64))?.[0];
    if (word === undefined) return refuse("neither a text nor a whole number, true or false");
    at += word.length;
    return /^\d/.test(word) ? BigInt(word) : word === "true";
  };
  const v = value(1);
  space();
  if (at < text.length) refuse("data after the end");
  return v;
}
