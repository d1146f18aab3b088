import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { inside, type Lab, type LabHost } from "../../src/demo/lab.ts";
import type { Child } from "../../src/demo/process.ts";

/** A real flanneld on a host of a lab. */
export interface StockDaemon {
  readonly child: Child;
  readonly subnetFile: string;
  /** Waits until it has written its subnet file. */
  ready(): Promise<void>;
}

/** The program named by FLANNELD_BIN. */
export function flanneldProgram(): string {
  const program = process.env["FLANNELD_BIN"] ?? "";
  if (!existsSync(program)) throw new Error(`FLANNELD_BIN must name a flanneld; it is "${program}"`);
  return program;
}

/** Starts it by its command line alone; `directory` below the lab's keeps its subnet file over restarts. */
export function startFlanneld(
  lab: Lab,
  host: LabHost,
  { endpoint, subnetFile }: { readonly endpoint: string; readonly subnetFile?: string },
  more: readonly string[] = [],
): StockDaemon {
  const directory = join(lab.directory, `flanneld${host.number}`);
  mkdirSync(directory, { recursive: true });
  const file = subnetFile ?? join(directory, "subnet.env");
  const child = lab.start(host.namespace, [
    flanneldProgram(),
    `-etcd-endpoints=${endpoint}`,
    "-iface=eth0",
    `-subnet-file=${file}`,
    ...more,
  ]);
  let ended: number | undefined;
  void child.exited.then((code) => {
    ended = code;
  });
  return {
    child,
    subnetFile: file,
    async ready() {
      for (const deadline = Date.now() + 20_000; Date.now() < deadline && ended === undefined;) {
        if (child.errorTail().includes("Wrote subnet file")) return;
        await Bun.sleep(20);
      }
      throw new Error(`flanneld is not ready (exit code ${ended}): ${child.errorTail()}`);
    },
  };
}

/** Whether flanneld's iptables mode can start on the host: it looks for the bridge's sysctl. */
export async function hasBridgeFilter(host: LabHost): Promise<boolean> {
  return inside(host.namespace, ["test", "-e", "/proc/sys/net/bridge/bridge-nf-call-iptables"]).then(
    () => true,
    () => false,
  );
}
