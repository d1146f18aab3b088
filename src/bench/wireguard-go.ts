import { generateKeyPairSync } from "node:crypto";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { systemClock } from "../base/clock.ts";
import { FlannelError } from "../base/error.ts";
import { overlay, receiver, sender } from "./address.ts";
import { ip, type Pair } from "./pair.ts";

const port = 51820;
/** What it takes off the underlay's MTU: its own default. */
const mtuBytes = 1420;
const startMsMax = 5_000;

/** wireguard-go at both ends. It encrypts. */
export async function joinWireguardGo(pair: Pair): Promise<void> {
  const hosts = [sender, receiver].map((host, at) => ({
    ...host,
    namespace: at === 0 ? pair.hosts.sender : pair.hosts.receiver,
    // Its control sockets stand in one directory for all namespaces.
    device: `flb${process.pid}${at === 0 ? "a" : "b"}`,
    keys: makeKeys(),
  }));
  for (const [at, own] of hosts.entries()) {
    const peer = hosts[1 - at];
    if (peer === undefined) throw new Error("two hosts");
    const child = pair.namespaces.start(own.namespace, ["wireguard-go", "-f", own.device]);
    const socket = `/var/run/wireguard/${own.device}.sock`;
    await waitFor(socket, () => child.errorTail());
    await configure(socket, [
      `private_key=${own.keys.secret}`,
      `listen_port=${port}`,
      `public_key=${peer.keys.open}`,
      `endpoint=${peer.underlay}:${port}`,
      `allowed_ip=${peer.subnet}`,
    ]);
    await ip(own.namespace, `address add ${own.vtep}/32 dev ${own.device}`);
    await ip(own.namespace, `link set ${own.device} mtu ${mtuBytes} up`);
    await ip(own.namespace, `route add ${overlay} dev ${own.device}`);
  }
  pair.target = receiver.vtep;
}

/** An X25519 pair as hexadecimal text. */
function makeKeys(): { secret: string; open: string } {
  const { privateKey, publicKey } = generateKeyPairSync("x25519");
  const hex = (key: typeof privateKey, member: "d" | "x") =>
    Buffer.from(key.export({ format: "jwk" })[member] ?? "", "base64url").toString("hex");
  return { secret: hex(privateKey, "d"), open: hex(publicKey, "x") };
}

async function waitFor(path: string, why: () => string): Promise<void> {
  const deadline = performance.now() + startMsMax;
  while (!existsSync(path)) {
    if (performance.now() > deadline) {
      throw new FlannelError("bench/program", "wireguard-go did not start", {}, { cause: new Error(why()) });
    }
    await systemClock.sleep(20);
  }
}

/** Sets a device up over its socket (wireguard.com/xplatform). */
function configure(path: string, lines: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    let answer = "";
    const socket = connect(path, () => socket.write(`set=1\n${lines.join("\n")}\n\n`));
    socket.on("error", reject);
    socket.on("data", (chunk) => {
      answer += chunk.toString();
      if (!answer.endsWith("\n\n")) return;
      socket.destroy();
      if (answer.trim() === "errno=0") resolve();
      else reject(new FlannelError("bench/program", `wireguard-go refused its set-up: ${answer.trim()}`));
    });
  });
}
