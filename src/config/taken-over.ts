import { scanFlags } from "./flags.ts";
import { flanneldFlagsGone } from "./flanneld-flags.ts";
import { fromEnvironment, fromFlags, withoutEffect } from "./from-text.ts";
import { definitions } from "./load.ts";
import { type Setting, settings } from "./schema.ts";
import { type Given, parseRaw, shown, soundsSecret, type Source } from "./source.ts";

/** A flanneld's command line and environment, as settings of ours. */
export interface TakenOver {
  /** To be read below what this host's own configuration gives. */
  readonly source: Source;
  /** Its flags and variables, `-name=value` and `NAME=value`; secrets are hidden. */
  readonly flags: readonly string[];
  readonly variables: readonly string[];
  /** What it was given and is not taken, with the reason. */
  readonly lost: readonly string[];
}

/** Whoever started flanneld wrote these texts: nothing in them is an error, what cannot be read is `lost`. */
export function takeOver(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): TakenOver {
  const variables = Object.fromEntries(
    Object.entries(env).filter(([name, text]) => name.startsWith("FLANNELD_") && text !== ""),
  );
  const line = scanFlags(argv, definitions([]), { gone: flanneldFlagsGone, ignoreLastWords: true });
  const [flags, environment] = [fromFlags(line.given), fromEnvironment(variables)];
  const ineffective = withoutEffect(line.given, variables);
  const given = new Map<Setting, Given>();
  const take = (setting: Setting, { value, origin }: Given) =>
    given.set(setting, { value, origin: `flanneld's ${origin}` });
  for (const [setting, one] of [...environment.given, ...flags.given]) take(setting, one);
  const nodeName = settings.find(({ path }) => path === "kubernetes.node_name");
  const named = nodeName && parseRaw(nodeName, env["NODE_NAME"] ?? "");
  if (nodeName !== undefined && named !== undefined && "value" in named && named.value !== undefined)
    take(nodeName, { value: named.value, origin: "env NODE_NAME" });
  return {
    source: { given, problems: [] },
    flags: line.given.map(({ name, text }) => `-${name}=${hidden(name, text)}`),
    variables: Object.entries(env).map(([name, text = ""]) => `${name}=${hidden(name, text)}`),
    lost: [
      ...[line, flags, environment, ineffective].flatMap(({ problems }) => problems),
      ...[line, environment, ineffective].flatMap(({ warnings }) => warnings),
      ...queueVariables.filter((name) => (env[name] ?? "") !== "").map((name) => `${name} has no effect`),
    ],
  };
}

const queueVariables = ["EVENT_QUEUE_DEPTH", "CONT_WHEN_CACHE_NOT_READY"];

/** Quoted where a terminal or a shell would make something of it. */
function hidden(name: string, text: string): string {
  if (soundsSecret(name)) return "<hidden>";
  const plain = shown(text);
  return /^"[\w./:,@%+=<>-]*"$/.test(plain) ? plain.slice(1, -1) : plain;
}
