import { systemClock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import { silentLog } from "../base/log.ts";
import type { CommandFlag } from "../config/load.ts";
import { parseNetworkConfig } from "../config/network.ts";
import type { Config } from "../config/schema.ts";
import { leaseKey } from "../lease/lease.ts";
import { strandedLeases } from "../lease/reservation.ts";
import { publishRefusal } from "../network/network-config.ts";
import { migrateStore, openStoreOperator } from "../store/open.ts";
import type { StoreOperator } from "../store/operator.ts";
import { type CommandInput, isJson, jsonFlag, usage } from "./command.ts";
import { documentDifference } from "../config/document-difference.ts";
import { leaseText } from "./leases.ts";
import { readDocument } from "./read-document.ts";

export const networkWords = "get (the default), set FILE (or - for standard input) or migrate-v2";

export const networkFlags: readonly CommandFlag[] = [
  jsonFlag,
  { name: "document", isBool: false, doc: "set: the document itself, in place of FILE." },
  { name: "force", isBool: true, doc: "set: also where existing leases have no place any more." },
];

/** @throws FlannelError `config/invalid` (exit code 2) for words and flags; `network/…` for refusals */
export async function network({ loaded, words, stop }: CommandInput): Promise<string> {
  const { config, commandFlags } = loaded;
  const [action = "get", file, ...rest] = words;
  const json = isJson(loaded);
  const force = commandFlags.get("force") === "true";
  const document = commandFlags.get("document");
  if (!["get", "set", "migrate-v2"].includes(action))
    throw usage(`network takes ${networkWords}, not ${JSON.stringify(action)}`);
  if (rest.length > 0 || (action !== "set" && file !== undefined))
    throw usage(`one word too many: ${JSON.stringify(rest[0] ?? file)}`);
  if (action === "migrate-v2") return await migrate(config, json, stop);
  if (action === "set" && (file === undefined) === (document === undefined))
    throw usage("network set takes either a FILE (or - for standard input) or -document");
  const wanted = file === undefined ? document : await readDocument(file);
  // Before the store is asked: a document that nobody could use is wrong whatever stands there.
  if (wanted !== undefined && action === "set") parseNetworkConfig(wanted);
  await using operator = openStoreOperator(config, { log: silentLog, clock: systemClock });
  return wanted === undefined || action === "get"
    ? await get(operator, json, stop)
    : await set(operator, { document: wanted, force, json }, stop);
}

async function get(operator: StoreOperator, json: boolean, stop: AbortSignal): Promise<string> {
  const document = await operator.readNetworkConfig(stop);
  if (document === undefined) {
    throw new FlannelError(
      "network/absent",
      `${operator.description} has no network configuration`,
      {},
      { remedy: "Put one there: flannel-lite network set" },
    );
  }
  if (json) return `${JSON.stringify({ store: operator.description, document })}\n`;
  return document.endsWith("\n") ? document : `${document}\n`;
}

async function set(
  operator: StoreOperator,
  { document, force, json }: { document: string; force: boolean; json: boolean },
  stop: AbortSignal,
): Promise<string> {
  const before = await operator.readNetworkConfig(stop);
  const difference = documentDifference(before, document);
  // Without a configuration there is no daemon, but leases of an earlier one may lie there.
  const leases = before === undefined ? [] : await operator.leases(stop);
  const stranded = strandedLeases(parseNetworkConfig(document), leases);
  if (stranded.length > 0 && !force) {
    const lines = stranded.map(({ lease, reason }) => `  ${reason}: ${leaseText(lease)}`);
    const shown = lines.slice(0, strandedMax);
    if (lines.length > shown.length) shown.push(`  and ${lines.length - shown.length} more`);
    throw new FlannelError(
      "network/strands",
      [`${stranded.length} leases have no place in this network, nothing was written:`, ...shown].join("\n"),
      {},
      {
        remedy:
          "With -force it is written all the same: nodes go by it at their next start and draw new subnets then",
      },
    );
  }
  const isSame = before === document;
  const replaced = isSame || (await replace(operator, { before, document }, stop));
  if (!replaced) {
    throw new FlannelError(
      "store/contended",
      "the network configuration was changed by somebody else just now",
      {},
      { retryable: true },
    );
  }
  const strandedKeys = stranded.map(({ lease }) => leaseKey(lease.subnets));
  if (json) {
    const result = { store: operator.description, changed: !isSame, difference, stranded: strandedKeys };
    return `${JSON.stringify(result, null, 2)}\n`;
  }
  return [
    ...difference,
    isSame
      ? "# nothing changed"
      : `# written to ${operator.description}; daemons go by it at their next start`,
    ...strandedKeys.map((key) => `# without place now: ${key}`),
    "",
  ].join("\n");
}

async function replace(
  operator: StoreOperator,
  change: Parameters<StoreOperator["replaceNetworkConfig"]>[0],
  stop: AbortSignal,
): Promise<boolean> {
  try {
    return await operator.replaceNetworkConfig(change, stop);
  } catch (error) {
    throw publishRefusal(error, operator) ?? error;
  }
}

/** Lines about leases without place; the rest is counted. */
const strandedMax = 20;

async function migrate(config: Config, json: boolean, stop: AbortSignal): Promise<string> {
  const done = await migrateStore(config, { log: silentLog, clock: systemClock }, stop);
  if (json) return `${JSON.stringify(done, null, 2)}\n`;
  return [
    ...done.copied.map(({ key, ttlSeconds }) =>
      ttlSeconds === null ? `copied ${key}` : `copied ${key}, which lapses in ${ttlSeconds} s`,
    ),
    ...done.present.map((key) => `stands there already: ${key}`),
    ...done.skipped.map(({ key, reason }) => `not copied: ${JSON.stringify(key)}: ${reason}`),
    `# ${done.copied.length + done.present.length} keys of API v2 verified by API v3 in ${done.store}`,
    "# v2's own keys are as they were; restart the daemons of all hosts before the leases lapse",
    "",
  ].join("\n");
}
