import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { inside, type Lab, switchAddress } from "../../src/demo/lab.ts";
import type { Certificates } from "./certificates.ts";
import { etcdProgram } from "./etcd.ts";

/** A real etcd on the lab's switch that takes clients only with a certificate of its authority. */
export interface SecureEtcd {
  readonly endpoint: string;
  /** What a client needs, as PEM: the authority, and a certificate of the user `flanneld` with its key. */
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  /** Calls etcdctl with these. */
  etcdctl(...args: string[]): Promise<string>;
}

const answerMsMax = 20_000;

/** Starts it; it ends with the lab. `v2` serves that API too, and is what `etcdctl` then speaks. */
export async function startSecureEtcd(
  lab: Lab,
  certificates: Certificates,
  { v2 = false }: { v2?: boolean } = {},
): Promise<SecureEtcd> {
  const ca = certificates.authority("ca");
  const server = certificates.issue("etcd", { by: "ca", names: `IP:${switchAddress}` });
  const client = certificates.issue("flanneld", { by: "ca" });
  const endpoint = `https://${switchAddress}:2379`;
  const peer = `http://${switchAddress}:2380`;
  const data = join(lab.directory, "etcd");
  mkdirSync(data, { recursive: true, mode: 0o700 });
  const child = lab.start(lab.switchNamespace, [
    etcdProgram(),
    ...["--name", "one", "--data-dir", data, "--log-level", "error", `--enable-v2=${v2}`],
    ...["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint],
    ...[
      "--listen-peer-urls",
      peer,
      "--initial-advertise-peer-urls",
      peer,
      "--initial-cluster",
      `one=${peer}`,
    ],
    ...["--cert-file", server.cert, "--key-file", server.key, "--trusted-ca-file", ca, "--client-cert-auth"],
  ]);
  const files = v2
    ? ["--ca-file", ca, "--cert-file", client.cert, "--key-file", client.key]
    : ["--cacert", ca, "--cert", client.cert, "--key", client.key];
  const command = [
    "env",
    `ETCDCTL_API=${v2 ? 2 : 3}`,
    `${etcdProgram()}ctl`,
    "--endpoints",
    endpoint,
    ...files,
  ];
  const etcdctl = (...args: string[]) => inside(lab.switchNamespace, [...command, ...args]);
  for (const deadline = Date.now() + answerMsMax; ; await Bun.sleep(100)) {
    try {
      await etcdctl(...(v2 ? ["cluster-health"] : ["endpoint", "health"]));
      break;
    } catch (error) {
      if (Date.now() > deadline)
        throw new Error(`etcd does not answer: ${child.errorTail()}`, { cause: error });
    }
  }
  const text = (path: string) => readFileSync(path, "utf8");
  return { endpoint, ca: text(ca), cert: text(client.cert), key: text(client.key), etcdctl };
}
