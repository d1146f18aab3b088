import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { FlannelError } from "../base/error.ts";
import { startEtcd } from "./etcd.ts";
import { inside, type Lab, switchAddress } from "./lab.ts";
import type { Child } from "./process.ts";

/** Where the demo's hosts can keep their leases. */
export const demoStores = ["embedded", "etcd"] as const;
export type DemoStore = (typeof demoStores)[number];

/** A store on the lab's switch; it ends with the lab. */
export interface LabStore {
  /** Lines of the table `store.etcd` of the host with that address. */
  configLines(address: string): readonly string[];
  /** The administrator's flags for a command of ours. */
  readonly adminFlags: readonly string[];
}

const startMsMax = 20_000;
const port = 2379;

/** Starts a store and puts the network's configuration there. */
export async function startStore(lab: Lab, kind: DemoStore, network: object): Promise<LabStore> {
  const { store, child } = kind === "etcd" ? plain(startEtcd(lab)) : await startEmbedded(lab);
  await publish(lab, { store, child, document: JSON.stringify(network) });
  return store;
}

interface Started {
  readonly store: LabStore;
  readonly child: Child;
}

function plain({ endpoint, child }: { endpoint: string; child: Child }): Started {
  const configLines = () => [`endpoints = ["${endpoint}"]`];
  return { store: { configLines, adminFlags: ["-etcd-endpoints", endpoint] }, child };
}

/** The store of this program, with the certificates that it makes for each of the hosts. */
async function startEmbedded(lab: Lab): Promise<Started> {
  const directory = join(lab.directory, "store");
  mkdirSync(directory, { mode: 0o700 });
  const certs = join(directory, "certs");
  const addresses = [switchAddress, ...lab.hosts.map(({ address }) => address)];
  const hosts = addresses.flatMap((address) => ["-host", address]);
  await inside(lab.switchNamespace, [process.execPath, "store", "init", "-data-dir", directory, ...hosts]);
  const child = lab.start(lab.switchNamespace, [
    ...[process.execPath, "store", "serve", "-data-dir", directory, "-listen", `${switchAddress}:${port}`],
    ...["-store-embedded-certfile", join(certs, "server.crt")],
    ...["-store-embedded-keyfile", join(certs, "server.key")],
    ...["-store-embedded-client-cafile", join(certs, "ca.crt")],
  ]);
  const endpoint = `https://${switchAddress}:${port}`;
  const files = (name: string) => ({
    cafile: join(certs, "ca.crt"),
    certfile: join(certs, `${name}.crt`),
    keyfile: join(certs, `${name}.key`),
  });
  return {
    child,
    store: {
      configLines: (address) => [
        `endpoints = ["${endpoint}"]`,
        ...Object.entries(files(`members/${address}`)).map(([name, path]) => `${name} = "${path}"`),
      ],
      adminFlags: [
        ...["-etcd-endpoints", endpoint],
        ...Object.entries(files("admin")).flatMap(([name, path]) => [`-etcd-${name}`, path]),
      ],
    },
  };
}

/** Writes the network's configuration as soon as the store answers. */
async function publish(
  lab: Lab,
  { store, child, document }: Started & { readonly document: string },
): Promise<void> {
  let ended = false;
  void child.exited.then(() => {
    ended = true;
  });
  const set = [process.execPath, "network", "set", "-document", document, ...store.adminFlags];
  for (const deadline = performance.now() + startMsMax; ;) {
    try {
      await inside(lab.switchNamespace, set);
      return;
    } catch (cause) {
      if (!ended && performance.now() < deadline) continue;
      throw new FlannelError(
        "demo/store",
        "the store does not start",
        {},
        { cause: ended ? new Error(child.errorTail().trim()) : cause },
      );
    }
  }
}
