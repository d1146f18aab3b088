import { FlannelError } from "../../src/base/error.ts";
import { type Loaded, loadConfig, type LoadInput } from "../../src/config/load.ts";

export interface ConfigSources {
  /** Text of the file that `-config` names; no flag and no file without it. */
  readonly toml?: string;
  readonly argv?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** Input for loadConfig that touches no file: the only one there is `/c.toml`. */
export function configInput({ toml, argv = [], env = {} }: ConfigSources): LoadInput {
  return {
    argv: toml === undefined ? argv : ["-config=/c.toml", ...argv],
    env,
    readFile: (path) => {
      if (path === "/c.toml") return new TextEncoder().encode(toml);
      throw Object.assign(new Error(`ENOENT: ${path}`), { code: "ENOENT" });
    },
  };
}

export function loadFrom(sources: ConfigSources): Loaded {
  return loadConfig(configInput(sources));
}

/** The problems that loading names, one a line; it must fail, and as a mistake of the operator. */
export function problemsFrom(input: LoadInput): string[] {
  try {
    loadConfig(input);
  } catch (error) {
    if (!(error instanceof FlannelError)) throw error;
    if (error.code !== "config/invalid" || error.exitCode !== 2) throw error;
    const [title = "", ...lines] = error.message.split("\n");
    if (!/^(a mistake|\d+ mistakes) in the configuration, nothing was touched:$/.test(title)) throw error;
    return lines.map((line) => line.slice(2));
  }
  throw new Error("the configuration was accepted");
}

/** The value below `keys` of a loaded configuration, as JSON would show it. */
export function configValue(config: unknown, keys: readonly string[]): unknown {
  const value = keys.reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], config);
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value));
}
