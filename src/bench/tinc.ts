import { generateKeyPairSync } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import { tryProgram } from "../demo/process.ts";
import { device, overlay, receiver, sender } from "./address.ts";
import { ip, type Pair } from "./pair.ts";

const joinMsMax = 10_000;
/** What it finds of the path: the underlay's MTU less its own headers; TCP is clamped by it. */
const mtuBytes = 1432;

/** tinc 1.0 at both ends, its data neither encrypted nor authenticated. */
export async function joinTinc(pair: Pair): Promise<void> {
  const hosts = [
    { ...sender, name: "a", namespace: pair.hosts.sender, keys: makeKeys() },
    { ...receiver, name: "b", namespace: pair.hosts.receiver, keys: makeKeys() },
  ];
  for (const own of hosts) {
    const directory = join(pair.namespaces.directory, `tinc-${own.name}`);
    mkdirSync(join(directory, "hosts"), { recursive: true, mode: 0o700 });
    const peers = hosts.filter(({ name }) => name !== own.name);
    writeFileSync(
      join(directory, "tinc.conf"),
      [
        `Name = ${own.name}`,
        `Interface = ${device}`,
        "AddressFamily = ipv4",
        ...peers.map(({ name }) => `ConnectTo = ${name}`),
        "",
      ].join("\n"),
    );
    writeFileSync(join(directory, "rsa_key.priv"), own.keys.secret, { mode: 0o600 });
    for (const { name, underlay, subnet, keys } of hosts) {
      writeFileSync(
        join(directory, "hosts", name),
        `Address = ${underlay}\nSubnet = ${subnet}\nCipher = none\nDigest = none\n${keys.open}`,
      );
    }
    const pidFile = join(directory, "pid");
    pair.namespaces.start(own.namespace, ["tincd", "-D", "-c", directory, `--pidfile=${pidFile}`]);
  }
  for (const { namespace, vtep } of hosts) {
    await until("tinc did not make its device", () => hasDevice(namespace));
    await ip(namespace, `address add ${vtep}/32 dev ${device}`);
    await ip(namespace, `link set ${device} mtu ${mtuBytes} up`);
    await ip(namespace, `route add ${overlay} dev ${device}`);
  }
  pair.target = receiver.vtep;
  await until("the tinc hosts did not join", async () => {
    const ping = ["ping", "-n", "-c", "1", "-W", "1", pair.target];
    return (await tryProgram(["ip", "netns", "exec", pair.hosts.sender, ...ping])).code === 0;
  });
}

function makeKeys(): { secret: string; open: string } {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return {
    secret: privateKey.export({ type: "pkcs1", format: "pem" }).toString(),
    open: publicKey.export({ type: "pkcs1", format: "pem" }).toString(),
  };
}

async function hasDevice(namespace: string): Promise<boolean> {
  return (await tryProgram(["ip", "-n", namespace, "link", "show", device])).code === 0;
}

async function until(failure: string, done: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + joinMsMax;
  while (!(await done())) {
    if (performance.now() > deadline) throw new FlannelError("bench/program", failure);
    await systemClock.sleep(50);
  }
}
