import type { Programs } from "../../src/host/firewall/programs.ts";

/** `nft` in memory: tables by `family name`, with the text that made them. */
export interface FakeNft extends Programs {
  readonly tables: Map<string, string>;
  /** What was handed to `nft -f -`, in order. */
  readonly loaded: readonly string[];
  installed: boolean;
  /** Whether it takes `masquerade fully-random`. */
  random: boolean;
}

export function fakeNft(): FakeNft {
  const tables = new Map<string, string>();
  const loaded: string[] = [];
  const fake: FakeNft = {
    tables,
    loaded,
    installed: true,
    random: true,
    find: (name) => (fake.installed && name === "nft" ? "nft" : undefined),
    async run(command, input = "") {
      const [, ...args] = command;
      const answer = (code: number, output = "", errors = "") => ({ code, output, errors });
      if (args.join(" ") === "--check -f -") return answer(fake.random ? 0 : 1);
      if (args.join(" ") === "-f -") {
        loaded.push(input);
        for (const [, name = ""] of input.matchAll(/^delete table (.+)$/gm)) tables.delete(name);
        for (const [text, name = ""] of input.matchAll(/^table (\S+ \S+) \{\n(?:\t.*\n)*\}\n/gm))
          tables.set(name, text);
        return answer(0);
      }
      const [, name] = /^-s list table (\S+ \S+)$/.exec(args.join(" ")) ?? [];
      if (name === undefined) throw new Error(`unexpected program: ${command.join(" ")}`);
      const text = tables.get(name);
      return text === undefined ? answer(1, "", "Error: No such file or directory") : answer(0, text);
    },
  };
  return fake;
}
