import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import { findEtcd } from "../demo/etcd.ts";
import { tryProgram } from "../demo/process.ts";
import { overlay, sender } from "./address.ts";
import type { Pair } from "./pair.ts";

const joinMsMax = 20_000;
const endpoint = `http://${sender.underlay}:2379`;
const network = JSON.stringify({ Network: overlay, SubnetLen: 24, Backend: { Type: "udp" } });

/** Names the program of flannel's rows. */
export const flanneldVariable = "FLANNELD_BIN";

/**
 * flannel's udp backend at both ends. Its etcd answers both APIs and holds the network in each, because flanneld up
 * to 0.20 knows only the second.
 */
export async function joinFlannelUdp(pair: Pair): Promise<void> {
  const { namespaces, hosts } = pair;
  const program = process.env[flanneldVariable] ?? "";
  const etcd = findEtcd();
  const directory = join(namespaces.directory, "etcd");
  mkdirSync(directory, { mode: 0o700 });
  namespaces.start(hosts.sender, [
    ...[etcd, "--data-dir", directory, "--enable-v2", "--log-level", "error"],
    ...["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint],
    ...["--listen-peer-urls", "http://127.0.0.1:2380"],
  ]);
  await until("etcd did not start", () => publish(hosts.sender, etcd));
  const daemons = [hosts.sender, hosts.receiver].map((namespace) => {
    const subnetFile = join(namespaces.directory, `${namespace}.env`);
    const child = namespaces.start(namespace, [
      program,
      "-etcd-endpoints",
      endpoint,
      "-iface",
      "eth0",
      "-subnet-file",
      subnetFile,
    ]);
    return { subnetFile, child };
  });
  const [, far] = daemons;
  await until(`flanneld did not join: ${far?.child.errorTail().trim().split("\n").at(-1)}`, async () => {
    if (far === undefined || !existsSync(far.subnetFile)) return false;
    const [, subnet] =
      /^FLANNEL_SUBNET=([\d.]+)\.\d+\/\d+$/m.exec(readFileSync(far.subnetFile, "utf8")) ?? [];
    // The backend's device has the subnet's first address.
    pair.target = `${subnet}.0`;
    const ping = ["ping", "-n", "-c", "1", "-W", "1", pair.target];
    return (await tryProgram(["ip", "netns", "exec", hosts.sender, ...ping])).code === 0;
  });
}

/** Writes the network's configuration through both APIs. */
async function publish(namespace: string, etcd: string): Promise<boolean> {
  const key = "/coreos.com/network/config";
  const writes = await Promise.all(
    ["2", "3"].map((api) =>
      tryProgram([
        ...["ip", "netns", "exec", namespace, "env", `ETCDCTL_API=${api}`, `${etcd}ctl`],
        ...["--endpoints", endpoint, api === "2" ? "set" : "put", key, network],
      ]),
    ),
  );
  return writes.every(({ code }) => code === 0);
}

async function until(failure: string, done: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + joinMsMax;
  while (!(await done())) {
    if (performance.now() > deadline) throw new FlannelError("bench/program", failure);
    await systemClock.sleep(100);
  }
}
