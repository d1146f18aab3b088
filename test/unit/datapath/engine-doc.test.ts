import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { dropReasons } from "../../../src/datapath/dgram/drop.ts";

const page = readFileSync(join(import.meta.dir, "../../../docs/userspace-engine.md"), "utf8");
/** What the first cells of the page's tables name. */
const named = [...page.matchAll(/^\| (`[^|]+`) \|/gm)].flatMap(([, cell = ""]) =>
  [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name),
);

test("docs: every reason to drop a packet is explained, and no other", () => {
  const offloads = ["tunChecksum", "tunTso4", "tunTso6", "tunTsoEcn", "tunUso", "udpGso", "udpGro"];
  expect(named.toSorted()).toEqual([...dropReasons, ...offloads].toSorted());
});
