import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Environment } from "../../src/cni/call.ts";
import { cniResult } from "../../src/cni/plugin.ts";

/** A directory with everything that the CNI plugin reads and writes, and fake delegates that note how they are called. */
export interface CniBench extends Disposable {
  readonly directory: string;
  readonly subnetFile: string;
  readonly dataDir: string;
  /** Adds a delegate: a shell script that notes its call and goes on with `body`. */
  delegate(name: string, body?: string): void;
  /** Calls that delegates got: command, container and interface, and the configuration. */
  calls(): { readonly line: string; readonly config: unknown }[];
  /** Calls the plugin in this process. @returns standard output */
  call(command: string, config?: object | string, env?: Environment): Promise<string>;
}

export const subnetEnvText = `FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.17.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=true
`;

export function openCniBench(): CniBench {
  const directory = mkdtempSync(join(tmpdir(), "fl-cni-"));
  const file = (name: string) => join(directory, name);
  writeFileSync(file("subnet.env"), subnetEnvText);
  return {
    directory,
    subnetFile: file("subnet.env"),
    dataDir: file("data"),
    delegate(name, body = `echo '{"cniVersion":"1.0.0","ips":[]}'`) {
      writeFileSync(
        file(name),
        `#!/bin/sh
call=$(mktemp ${directory}/call.$(date +%s%N).XXXXXX)
echo "$(basename "$0") $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" > "$call"
cat >> "$call"
${body}
`,
      );
      chmodSync(file(name), 0o755);
    },
    calls: () =>
      readdirSync(directory)
        .filter((name) => name.startsWith("call."))
        .sort()
        .map((name) => {
          const [line = "", ...rest] = readFileSync(file(name), "utf8").split("\n");
          return { line, config: JSON.parse(rest.join("\n")) as unknown };
        }),
    call: (command, config = {}, env = {}) =>
      cniResult(
        {
          PATH: process.env["PATH"],
          CNI_COMMAND: command,
          CNI_CONTAINERID: "pod1",
          CNI_IFNAME: "eth0",
          CNI_NETNS: "/run/netns/no-such-namespace",
          CNI_PATH: directory,
          ...env,
        },
        () =>
          typeof config === "string"
            ? config
            : JSON.stringify({
                cniVersion: "1.0.0",
                name: "net",
                type: "flannel",
                subnetFile: file("subnet.env"),
                dataDir: file("data"),
                ...config,
              }),
      ),
    [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }),
  };
}
