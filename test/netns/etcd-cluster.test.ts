import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { inside } from "../../src/demo/lab.ts";
import { type Child, runProgram } from "../../src/demo/process.ts";
import { type Certificates, openCertificates } from "../support/certificates.ts";
import { etcdProgram } from "../support/etcd.ts";
import { etcdTransports } from "../support/etcd-transports.ts";
import {
  openTestOverlay,
  overlayRefused,
  ping,
  type TestOverlay,
  transfer,
  vtepAddress,
} from "../support/overlay.ts";

const refused = overlayRefused();
if (refused !== undefined) console.warn(`SKIPPED test/netns/etcd-cluster.test.ts: ${refused}`);

const addresses = ["10.77.0.251", "10.77.0.252", "10.77.0.253"];

describe.skipIf(refused !== undefined)("a three-member etcd with mutual TLS", () => {
  let open: TestOverlay | undefined;
  let certificates: Certificates | undefined;
  afterEach(async () => {
    await open?.[Symbol.asyncDispose]();
    certificates?.[Symbol.dispose]();
  });

  test.each(etcdTransports)(
    "over %s: its members killed in turn, leases, watch and traffic go on",
    async (transport) => {
      const net = await openTestOverlay(2);
      open = net;
      const certs = openCertificates();
      certificates = certs;
      const ca = certs.authority("ca");
      const server = certs.issue("server", {
        by: "ca",
        names: addresses.map((one) => `IP:${one}`).join(","),
      });
      const client = certs.issue("client", { by: "ca", names: "DNS:client" });
      const endpoints = addresses.map((address) => `https://${address}:2379`);
      for (const address of addresses) {
        await runProgram([
          "ip",
          "-n",
          net.lab.switchNamespace,
          "address",
          "add",
          `${address}/24`,
          "dev",
          "br0",
        ]);
      }
      const cluster = addresses.map((address, at) => `m${at}=http://${address}:2380`).join(",");
      const startMember = (at: number): Child => {
        const dataDir = join(net.lab.directory, `member${at}`);
        mkdirSync(dataDir, { recursive: true, mode: 0o700 });
        const peer = `http://${addresses[at]}:2380`;
        return net.lab.start(net.lab.switchNamespace, [
          ...[etcdProgram(), "--name", `m${at}`, "--data-dir", dataDir, "--log-level", "error"],
          ...["--listen-client-urls", `${endpoints[at]}`, "--advertise-client-urls", `${endpoints[at]}`],
          ...[
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
            "--initial-cluster",
            cluster,
          ],
          ...[
            "--cert-file",
            server.cert,
            "--key-file",
            server.key,
            "--client-cert-auth",
            "--trusted-ca-file",
            ca,
          ],
          ...["--heartbeat-interval", "50", "--election-timeout", "500"],
        ]);
      };
      const members = addresses.map((_, at) => startMember(at));
      const etcdctl = (...args: string[]) =>
        inside(net.lab.switchNamespace, [
          ...["env", "ETCDCTL_API=3", `${etcdProgram()}ctl`, "--endpoints", endpoints.join(",")],
          ...["--cacert", ca, "--cert", client.cert, "--key", client.key, ...args],
        ]);
      /** Until the cluster has a leader that takes it. */
      const put = async (key: string, value: string) => {
        for (let tries = 0; tries < 50; tries++) {
          const done = etcdctl("--command-timeout", "1s", "put", `/coreos.com/network/${key}`, value);
          if (
            await done.then(
              () => true,
              () => false,
            )
          )
            return;
        }
        throw new Error(`${key} could not be put`);
      };
      await put("config", '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}');
      const etcd = `transport = "${transport}"\ncafile = "${ca}"\ncertfile = "${client.cert}"\nkeyfile = "${client.key}"`;
      const options = { endpoint: endpoints.join('", "'), etcd };
      const [first, second] = net.lab.hosts.map((host, at) =>
        net.startDaemon(host, { engine: at === 0 ? "userspace" : "kernel", ...options }),
      );
      if (first === undefined || second === undefined) throw new Error("two hosts");
      const [a, b] = [await first.ready(1), await second.ready(1)];
      const flow = transfer(
        net.lab,
        { host: first.host, address: vtepAddress(a) },
        { host: second.host, address: vtepAddress(b) },
        4_000,
      );
      for (const [at, member] of members.entries()) {
        await member.end(0);
        // The watch still delivers: a lease put now becomes a peer on both.
        const subnet = `10.99.${250 + at}.0`;
        const value = {
          PublicIP: `10.77.0.${100 + at}`,
          BackendType: "vxlan",
          BackendData: { VtepMAC: `0e:2a:00:00:00:0${at}` },
        };
        await put(`subnets/${subnet}-24`, JSON.stringify(value));
        for (const daemon of [first, second]) await daemon.ready(2 + at);
        await ping(first.host, vtepAddress(b));
        members[at] = startMember(at);
        for (let tries = 0; tries < 100; tries++) {
          if (
            await etcdctl("endpoint", "health").then(
              () => true,
              () => false,
            )
          )
            break;
          await Bun.sleep(100);
        }
      }
      expect((await flow).intact).toBe(true);
      for (const [daemon, before] of [
        [first, a],
        [second, b],
      ] as const) {
        const now = await daemon.report();
        expect(now.lease?.subnets).toEqual(before.lease?.subnets as string[]);
        expect(now.ready).toBe(true);
      }
    },
    60_000,
  );
});
