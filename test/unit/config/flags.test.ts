import { describe, expect, test } from "bun:test";
import { scanFlags, takeWords } from "../../../src/config/flags.ts";
import { boolForm, intForm, verbosityForm } from "../../../src/config/text-form.ts";

const definitions = [
  { name: "iface", isBool: false },
  { name: "etcd-endpoints", isBool: false },
  { name: "v", isBool: false },
  { name: "forward", isBool: true },
];
const given = (...argv: string[]) =>
  scanFlags(argv, definitions).given.map(({ name, text }) => `${name}=${text}`);
const gone = new Map([["logtostderr", "only -v is there"]]);
const problems = (...argv: string[]) => scanFlags(argv, definitions, { gone }).problems;

describe("flags: Go's syntax", () => {
  const accepted: [string, string[], string[]][] = [
    ["one dash and =", ["-iface=eth0"], ["iface=eth0"]],
    ["two dashes and =", ["--iface=eth0"], ["iface=eth0"]],
    ["one dash and a word", ["-iface", "eth0"], ["iface=eth0"]],
    ["two dashes and a word", ["--iface", "eth0"], ["iface=eth0"]],
    ["the empty value", ["-iface="], ["iface="]],
    ["an empty word as value", ["-iface", ""], ["iface="]],
    ["only the first = divides", ["-iface=a=b"], ["iface=a=b"]],
    ["a value that looks like a flag", ["-iface", "-v"], ["iface=-v"]],
    ["-- as a value", ["-iface", "--", "-v=1"], ["iface=--", "v=1"]],
    ["repeats stay in order", ["-iface=a", "-v=1", "-iface=b"], ["iface=a", "v=1", "iface=b"]],
    ["commas stay", ["-etcd-endpoints=a,b"], ["etcd-endpoints=a,b"]],
    ["a boolean without a value", ["-forward", "-v=1"], ["forward=true", "v=1"]],
    ["a boolean with =", ["--forward=F"], ["forward=F"]],
    ["-v=10 is no bundle", ["-v=10"], ["v=10"]],
    ["-- at the end", ["-v=1", "--"], ["v=1"]],
  ];
  test.each(accepted)("%s", (_, argv, expected) => {
    expect(given(...argv)).toEqual(expected);
    expect(problems(...argv)).toEqual([]);
  });

  const refused: [string[], string[]][] = [
    [["-ifcae=eth0"], ["flag provided but not defined: -ifcae; did you mean -iface?"]],
    [["--quite-another"], ["flag provided but not defined: -quite-another"]],
    [["-logtostderr"], ["flag provided but not defined: -logtostderr (only -v is there)"]],
    [["---v"], ["bad flag syntax: ---v"]],
    [["-=x"], ["bad flag syntax: -"]],
    [["--=x"], ["bad flag syntax: --"]],
    [["-v"], ["flag needs an argument: -v"]],
    [["word"], ['unexpected argument "word"']],
    [["-"], ['unexpected argument "-"']],
    [[""], ['unexpected argument ""']],
    [["--", "-v=1"], ['unexpected argument "-v=…", which ends the flags: those behind it are lost']],
    [
      ["-forward", "true", "-v=1"],
      [
        'unexpected argument "true", which ends the flags: those behind it are lost; did you mean -forward=true?',
      ],
    ],
    [
      ["-bad", "value", "-worse", "-v"],
      [
        "flag provided but not defined: -bad",
        "flag provided but not defined: -worse",
        "flag needs an argument: -v",
      ],
    ],
  ];
  test.each(refused)("%j is refused in Go's words", (argv, expected) => {
    expect(problems(...argv)).toEqual(expected);
  });

  test.each(["-h", "-help", "--help", "--help=x"])("%s asks for help and is no mistake", (word) => {
    expect(scanFlags([word], definitions)).toEqual({ given: [], help: true, problems: [], warnings: [] });
  });

  test("words behind the last flag may be a warning, words that lose flags never are", () => {
    const scan = (...argv: string[]) => scanFlags(argv, definitions, { ignoreLastWords: true });
    expect(scan("-forward", "false")).toMatchObject({
      given: [{ name: "forward", text: "true" }],
      problems: [],
      warnings: ['unexpected argument "false"; did you mean -forward=false?; it is ignored, as by flanneld'],
    });
    expect(scan("word", "-v=1")).toMatchObject({ problems: [expect.any(String)], warnings: [] });
  });

  test("what a mistaken flag carries is not repeated", () => {
    const lines = problems("---etcd-password=s3cret", "-etcd-pasword=s3cret", "etcd-password=s3cret");
    expect(lines).toHaveLength(3);
    expect(lines.join()).not.toContain("s3cret");
  });
});

describe("flags: values as Go reads them", () => {
  const integers: [string, number][] = [
    ["0", 0],
    ["-0", -0],
    ["+7", 7],
    ["-12", -12],
    ["0x1F", 31],
    ["0X_1f", 31],
    ["0b101", 5],
    ["0o17", 15],
    ["017", 15],
    ["1_000", 1000],
    ["0_7", 7],
    ["-9223372036854775808", -(2 ** 63)],
  ];
  test.each(integers)("integer %s is %d", (text, value) => {
    expect(intForm.parse(text)).toEqual({ raw: value === 0 ? 0 : value });
  });

  test.each([
    "",
    "x",
    "1.0",
    "1e3",
    " 1",
    "_1",
    "1_",
    "1__0",
    "0x",
    "09",
    "0b2",
    "--1",
    "1\n",
    "9".repeat(999),
  ])("%j is no integer", (text) => {
    expect(intForm.parse(text)).toEqual({ refused: "parse error" });
  });

  test("an integer beyond 64 bits is out of range", () => {
    expect(intForm.parse("9223372036854775808")).toEqual({ refused: "value out of range" });
  });

  test("booleans are Go's twelve words and no others", () => {
    for (const word of ["1", "t", "T", "true", "TRUE", "True"])
      expect(boolForm.parse(word)).toEqual({ raw: true });
    for (const word of ["0", "f", "F", "false", "FALSE", "False"]) {
      expect(boolForm.parse(word)).toEqual({ raw: false });
    }
    for (const word of ["", "yes", "tRUE", "2", " true"]) {
      expect(boolForm.parse(word)).toEqual({ refused: "parse error" });
    }
  });

  test("klog's verbosity is a log level", () => {
    expect(["-1", "0", "1", "10"].map((word) => verbosityForm.parse(word))).toEqual([
      { raw: "info" },
      { raw: "info" },
      { raw: "debug" },
      { raw: "debug" },
    ]);
    expect(verbosityForm.parse("0x1")).toEqual({
      refused: 'strconv.ParseInt: parsing "0x1": invalid syntax',
    });
    expect(verbosityForm.parse("2147483648")).toEqual({
      refused: 'strconv.ParseInt: parsing "2147483648": value out of range',
    });
  });
});

describe("config: words of a command line", () => {
  const definitions = [
    { name: "public-ip", isBool: false },
    { name: "json", isBool: true },
  ];
  test.each([
    [
      "reserve 10.5.9.0/24 --public-ip 192.0.2.9 --json",
      "reserve 10.5.9.0/24",
      "--public-ip 192.0.2.9 --json",
    ],
    ["--json reserve -public-ip=x 10.5.9.0/24", "reserve 10.5.9.0/24", "--json -public-ip=x"],
    ["set -", "set -", ""],
    ["set -- --json", "set --json", ""],
    ["--public-ip", "", "--public-ip"],
    ["--public-ip --json", "", "--public-ip --json"],
    ["--unknown word", "word", "--unknown"],
    ["", "", ""],
  ])("%j", (line, words, flags) => {
    const taken = takeWords(line.split(" ").filter(Boolean), definitions);
    expect([taken.words.join(" "), taken.flags.join(" ")]).toEqual([words, flags]);
  });
});
