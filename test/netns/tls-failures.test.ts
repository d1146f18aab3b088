import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { inside, type Lab, openLab, switchAddress } from "../../src/demo/lab.ts";
import { runProgram } from "../../src/demo/process.ts";
import { type Certificates, openCertificates } from "../support/certificates.ts";
import { etcdProgram } from "../support/etcd.ts";
import { etcdTransports } from "../support/etcd-transports.ts";
import { binary, overlayRefused } from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/tls-failures.test.ts: ${refused}`);

/** What is wrong between the two, and what the one line says of it. */
const cases = [
  { name: "a server of another authority", server: { by: "other" }, says: "cafile" },
  { name: "a server of another name", server: { names: "DNS:elsewhere.invalid" }, says: switchAddress },
  { name: "a server whose certificate has expired", server: { days: -1 }, says: "expired" },
  { name: "no certificate of ours", client: undefined, says: "certfile" },
  { name: "a certificate of ours that has expired", client: { days: -1 }, says: "certfile" },
  { name: "a certificate of ours by another authority", client: { by: "other" }, says: "certfile" },
] as const;

describe.skipIf(refused !== undefined).each(etcdTransports)("TLS failures over %s", (transport) => {
  let lab: Lab | undefined;
  let certificates: Certificates | undefined;
  afterEach(async () => {
    await lab?.[Symbol.asyncDispose]();
    certificates?.[Symbol.dispose]();
    lab = certificates = undefined;
  });

  test.each(cases)("$name: one line with the remedy, exit code 1, nothing made", async (wrong) => {
    certificates = openCertificates();
    lab = await openLab("tlsf", 1);
    const [host] = lab.hosts;
    if (host === undefined) throw new Error("no host");
    const ca = certificates.authority("ca");
    certificates.authority("other");
    const good = { by: "ca", names: `IP:${switchAddress}` };
    const server = certificates.issue("server", { ...good, ...("server" in wrong ? wrong.server : {}) });
    const client =
      "client" in wrong && wrong.client === undefined
        ? undefined
        : certificates.issue("client", {
            by: "ca",
            names: "DNS:client",
            ...("client" in wrong ? wrong.client : {}),
          });
    const [url, peer] = [`https://${switchAddress}:2379`, `http://${switchAddress}:2380`];
    const etcd = lab.start(lab.switchNamespace, [
      ...[etcdProgram(), "--name", "one", "--data-dir", join(lab.directory, "etcd"), "--log-level", "error"],
      ...["--listen-client-urls", url, "--advertise-client-urls", url, "--listen-peer-urls", peer],
      ...["--initial-advertise-peer-urls", peer, "--initial-cluster", `one=${peer}`],
      ...[
        "--cert-file",
        server.cert,
        "--key-file",
        server.key,
        "--trusted-ca-file",
        ca,
        "--client-cert-auth",
      ],
    ]);
    for (let tries = 0; ; tries++) {
      const listening = await inside(lab.switchNamespace, ["ss", "-Hltn", "sport = :2379"]);
      if (listening.includes(":2379")) break;
      if (tries === 100) throw new Error(`etcd does not listen: ${etcd.errorTail()}`);
      await Bun.sleep(100);
    }
    const directory = join(lab.directory, "host1");
    mkdirSync(directory, { mode: 0o700 });
    const subnetFile = join(directory, "subnet.env");
    const links = () => runProgram(["ip", "-n", host.namespace, "-o", "link"]);
    const before = await links();
    const daemon = lab.start(host.namespace, [
      ...[binary, `-etcd-endpoints=${url}`, `-etcd-cafile=${ca}`, `-store-etcd-transport=${transport}`],
      ...(client === undefined ? [] : [`-etcd-certfile=${client.cert}`, `-etcd-keyfile=${client.key}`]),
      ...[
        `-subnet-file=${subnetFile}`,
        `-host-run-dir=${directory}/run`,
        `-host-state-dir=${directory}/state`,
      ],
    ]);
    const code = await Promise.race([daemon.exited, Bun.sleep(15_000).then(() => "still running")]);
    const said = daemon.errorTail();
    const last = said.trimEnd().split("\n").at(-1) ?? "";
    expect([code, last]).toEqual([1, expect.stringMatching(/^flannel-lite: error: /)]);
    expect(last.toLowerCase()).toContain(wrong.says);
    expect(await links()).toBe(before);
    expect(existsSync(subnetFile)).toBe(false);
  });
});
