import { describe, expect, test } from "bun:test";
import { isTable, parseToml, type TomlDocument } from "../../../src/config/toml.ts";
import { tomlText } from "../../../src/config/toml-text.ts";
import { type Random, seededRandom } from "../../support/random.ts";

function parsed(text: string): TomlDocument {
  const document = parseToml(text);
  if (!("root" in document)) throw new Error(`no TOML: ${document.reason} at ${document.line} in\n${text}`);
  return document;
}

describe("toml: lines of keys", () => {
  const text = `# [not.a.table]
top = 1
a.b . c = 2 # x = 3
"q.k" = """
[fake]
fake = 1
"""
'lit' = '''
x = 1
'''
[ t . "u v" ]
list = [
  "one", # ]
  { x = 1, y.z = "}" },
  [ 1,
    2 ],
]
"\\u0061\\x62" = "="
after = 1
[[el]]
k = 1
[el.sub]
k = 1
[[el]]
k = 1
[el.sub]
k = 1
`;
  const lines: [string[], number][] = [
    [["top"], 2],
    [["a"], 3],
    [["a", "b", "c"], 3],
    [["q.k"], 4],
    [["lit"], 8],
    [["t", "u v"], 11],
    [["t", "u v", "list"], 12],
    [["t", "u v", "list", "0"], 13],
    [["t", "u v", "list", "1", "x"], 14],
    [["t", "u v", "list", "1", "y", "z"], 14],
    [["t", "u v", "list", "2", "1"], 16],
    [["t", "u v", "ab"], 18],
    [["t", "u v", "after"], 19],
    [["el"], 20],
    [["el", "0", "sub", "k"], 23],
    [["el", "1"], 24],
    [["el", "1", "k"], 25],
    [["el", "1", "sub", "k"], 27],
  ];
  test.each(lines)("%j stands on line %d", (path, line) => {
    expect(parsed(text).lineOf(path)).toBe(line);
  });

  test("a path that is not there has the line of the nearest one above it", () => {
    expect(parsed(text).lineOf(["t", "u v", "no", "such"])).toBe(11);
    expect(parsed(text).lineOf(["no"])).toBe(1);
  });

  test("CRLF and a byte order mark do not shift lines", () => {
    expect(parsed("\ufeffa = 1\r\n\r\n[t]\r\nb = 2\r\n").lineOf(["t", "b"])).toBe(4);
  });

  test("in random documents every value stands on the line that it says", () => {
    for (let seed = 1; seed <= 200; seed++) {
      const document = parsed(lineSayingDocument(seededRandom(seed)));
      let seen = 0;
      forEachNumber(document.root, [], (path, line) => {
        seen++;
        expect({ seed, path, line: document.lineOf(path) }).toEqual({ seed, path, line });
      });
      expect(seen).toBeGreaterThan(0);
    }
  });
});

describe("toml: mistakes", () => {
  const mistakes: [string, string][] = [
    ["a = ", "1:5 unexpected end of file"],
    ["a = 1\n[b\n", "2:3 unexpected end of line"],
    ["a = 1 b = 2", '1:7 unexpected "b"'],
    ["a = 1\n\nb = 2\na = 3", "4:1 cannot redefine existing key 'a'"],
    ["a.b = 1\n[a]", "2:1 cannot redefine existing key 'a'"],
    [
      "x = 9007199254740993",
      "1:5 integer 9007199254740993 cannot be represented losslessly as a JavaScript number",
    ],
    ["d = 2020-13-45", "1:5 invalid date: month 13 out of range"],
    ['s = "\\ud800"', "1:6 invalid Unicode escape code: d800"],
    [`x = ${"[".repeat(40)}`, "1:37 maximum nesting depth of 32 exceeded"],
  ];
  test.each(mistakes)("%j has its position and reason", (text, expected) => {
    const error = parseToml(text);
    if ("root" in error) throw new Error("parsed");
    expect(`${error.line}:${error.column} ${error.reason}`).toBe(expected);
  });

  test("any damage to a document gives a document or a position inside the text", () => {
    const random = seededRandom(7);
    const alphabet = "[]{}=.,\"'#\n\r\\ua1_- \u0000é:T+0xE";
    let refused = 0;
    for (let round = 0; round < 2000; round++) {
      const text = damaged(lineSayingDocument(random), alphabet, random);
      const result = parseToml(text);
      if ("root" in result) continue;
      refused++;
      expect(result.line).toBeWithin(1, text.split("\n").length + 1);
      expect(result.column).toBeGreaterThanOrEqual(1);
      expect(result.reason).not.toBe("");
    }
    expect(refused).toBeGreaterThan(500);
  });
});

describe("toml: values as text", () => {
  test("what is written parses to what was meant", () => {
    const value = {
      a: 'q"\\\n\u007f\u2028é',
      "b c": [1, -1.5, true, { d: [] }],
      e: {},
      f: Infinity,
      "": -Infinity,
    };
    expect(JSON.stringify(parsed(`v = ${tomlText(value)}`).root["v"])).toBe(JSON.stringify(value));
  });

  test("nesting beyond six levels is cut off", () => {
    expect(tomlText([[[[[[[[1]]]]]]]])).toBe("[[[[[[…]]]]]]");
  });
});

/** A TOML text in which every number is the line that it stands on. */
function lineSayingDocument(random: Random): string {
  const lines: string[] = [];
  const line = () => lines.length + 1;
  let names = 0;
  const name = () => random.pick([`k${names++}`, `"k ${names++}"`, `'k.${names++}'`, `"k\\u0041${names++}"`]);
  for (let block = 0; block < 5; block++) {
    if (block > 0) {
      lines.push(random.pick([`[ ${name()} ]`, `[${name()} . ${name()}]`, "[[many]]", "[[many]] # x = 0"]));
    }
    for (let row = 0; row < 4; row++) {
      switch (random.below(7)) {
        case 0:
          lines.push(`${name()} = ${line()} # [x] y = 0`);
          break;
        case 1:
          lines.push(`${name()}.${name()} = ${line()}`);
          break;
        case 2:
          lines.push(`${name()} = { a = ${line()}, b.c = [${line()}, { d = ${line()} }], s = "} # \\" ]" }`);
          break;
        case 3:
          lines.push(`${name()} = [ # one`, `  ${line() + 1},`, `  [${line() + 2}, '''`);
          lines.push("] = 0", `'''], "#", ${line() + 1} ]`);
          break;
        case 4:
          lines.push(`${name()} = """`, "[fake]", 'x = 0 \\""" y', '"""');
          break;
        case 5:
          lines.push("", "# comment = 0", "\t");
          break;
        default:
          lines.push(`  ${name()}  =  1979-05-27T07:32:00Z`);
      }
    }
  }
  lines.push(`last = ${line()}`);
  return lines.join(random.pick(["\n", "\r\n"]));
}

function forEachNumber(
  value: unknown,
  path: readonly string[],
  visit: (path: readonly string[], number: number) => void,
): void {
  if (typeof value === "number") visit(path, value);
  else if (Array.isArray(value) || isTable(value)) {
    for (const [key, inner] of Object.entries(value)) forEachNumber(inner, [...path, key], visit);
  }
}

function damaged(text: string, alphabet: string, random: Random): string {
  let result = text;
  for (let hit = random.below(3); hit >= 0; hit--) {
    const at = random.below(result.length + 1);
    const added = random.below(3) === 0 ? "" : (alphabet[random.below(alphabet.length)] ?? "");
    result = result.slice(0, at) + added + result.slice(at + random.below(4));
  }
  return result;
}
