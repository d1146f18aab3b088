import { expect, test } from "bun:test";
import { helpText } from "../../../src/config/help.ts";
import { settings } from "../../../src/config/schema.ts";

const commands = [
  { name: "run", doc: "Carry the overlay's traffic until stopped." },
  {
    name: "check",
    doc: `Say what is configured, ${"and where that comes from, ".repeat(5)}in text or JSON.`,
    flags: [
      { name: "json", isBool: true, doc: "Answer in JSON." },
      { name: "nodes", isBool: false, doc: "How many." },
    ],
  },
];
const help = helpText({ commands });

test("help: every command, flag, variable and TOML path is there", () => {
  const words = help.split(/[\s,;]+/);
  for (const { path, option, flags, variables } of settings) {
    for (const { name } of flags) expect(words).toContain(`-${name}`);
    for (const { name } of variables) expect(words).toContain(name);
    expect([path, words.includes(path)]).toEqual([path, !option.secret]);
  }
  for (const word of ["-config", "-help", "-version", "run", "check", "FLANNEL_LITE_CONFIG"]) {
    expect(words).toContain(word);
  }
});

test("help: a stanza names type, meaning, range, default and the other places", () => {
  expect(help).toContain(`
  -subnet-lease-renew-margin int
        How long before its expiry our lease is renewed. Takes 1 to 1439 (minutes).
        default 60; toml store.renew_margin; env FLANNEL_LITE_STORE_RENEW_MARGIN,
        FLANNELD_SUBNET_LEASE_RENEW_MARGIN
`);
  expect(help).toContain(`
  -host-ip-forward
        Switch the kernel's IP forwarding on where it is off. Takes true or false.
        default true; toml host.ip_forward; env FLANNEL_LITE_HOST_IP_FORWARD
`);
  expect(help).toContain(`
  -v int
        Log level as a number: 0 is info, 1 and more are debug.
        toml log.level; env FLANNELD_V
`);
});

test("help: without commands, under another name, it is the same list", () => {
  const text = helpText({ commands: [], program: "flanneld" });
  expect(text).toStartWith("Usage: flanneld [OPTION]...\n");
  expect(text.slice(text.indexOf("\nuplink:"))).toBe(help.slice(help.indexOf("\nuplink:")));
});

test("help: the flags of one command stand under its name", () => {
  expect(help).toContain(`
check alone:
  -json
        Answer in JSON.
  -nodes string
        How many.

`);
  expect(help).not.toContain("run alone");
});

test("help: no line is wider than 100 characters or ends in a blank", () => {
  expect(help.split("\n").filter((line) => line.length > 100 || /\s$/.test(line))).toEqual([]);
  expect(help.endsWith("\n")).toBe(true);
});
