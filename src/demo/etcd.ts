import { accessSync, constants, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { FlannelError } from "../base/error.ts";
import { type Lab, switchAddress } from "./lab.ts";
import type { Child } from "./process.ts";

/** One etcd member on the lab's switch. */
export interface LabEtcd {
  readonly endpoint: string;
  readonly child: Child;
  readonly dataDir: string;
}

/** Starts it, anew with the data of the one before where that has ended. */
export function startEtcd(lab: Lab, program = findEtcd(), flags: readonly string[] = []): LabEtcd {
  const endpoint = `http://${switchAddress}:2379`;
  const peer = `http://${switchAddress}:2380`;
  const dataDir = join(lab.directory, "etcd");
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const child = lab.start(lab.switchNamespace, [
    program,
    ...["--name", "demo", "--data-dir", dataDir, "--log-level", "error"],
    ...["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint],
    ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
    ...["--initial-cluster", `demo=${peer}`],
    ...flags,
  ]);
  return { endpoint, child, dataDir };
}

/** From PATH, else where `make` puts it beside the executable. @throws FlannelError `demo/no-etcd` */
export function findEtcd(): string {
  const beside = join(dirname(process.execPath), "tools/etcd/usr/bin/etcd");
  const candidates = [...(process.env["PATH"] ?? "").split(":").map((entry) => join(entry, "etcd")), beside];
  const found = candidates.find(isExecutable);
  if (found !== undefined) return found;
  throw new FlannelError(
    "demo/no-etcd",
    "the demo needs etcd",
    {},
    { remedy: "apt-get install etcd-server" },
  );
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
