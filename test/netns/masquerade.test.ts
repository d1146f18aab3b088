import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { inside } from "../../src/demo/lab.ts";
import { runProgram, tryProgram } from "../../src/demo/process.ts";
import { openTestOverlay, overlayRefused, type TestOverlay, vtepAddress } from "../support/overlay.ts";

const refused =
  overlayRefused() ??
  (Bun.which("iptables-legacy") === null || Bun.which("nft") === null
    ? "iptables or nft is missing"
    : undefined);
if (refused !== undefined) console.warn(`SKIPPED test/netns/masquerade.test.ts: ${refused}`);

const variants = ["iptables-legacy", "iptables-nft", "nftables"] as const;
const answering =
  "Bun.listen({hostname:'::',port:7777,socket:{open(s){s.end(s.remoteAddress)},data(){}}});console.log('up')";

describe.skipIf(refused !== undefined)("masquerade", () => {
  let open: TestOverlay | undefined;
  let pod: string | undefined;
  afterEach(async () => {
    if (pod !== undefined) {
      const pids = (await tryProgram(["ip", "netns", "pids", pod])).output.split("\n").filter(Boolean);
      for (const pid of pids) process.kill(Number(pid), "SIGKILL");
      await tryProgram(["ip", "netns", "delete", pod]);
    }
    await open?.[Symbol.asyncDispose]();
    open = pod = undefined;
  });

  /** The address under which a TCP connection arrives at its other end. */
  const seenFrom = async (namespace: string, target: string): Promise<string> => {
    const client = `const s=await Bun.connect({hostname:'${target}',port:7777,socket:{data(_,d){console.log(String(d));process.exit(0)}}})`;
    const command = ["ip", "netns", "exec", namespace, process.execPath, "-e", client];
    const { output, errors } = await tryProgram(command, 5_000);
    return (output.trim() || errors).replace("::ffff:", "");
  };

  test.each(variants.flatMap((variant) => ([4, 6] as const).map((family) => [variant, family] as const)))(
    "%s, IPv%d: a pod is seen outside as its host, as itself where kube-proxy has marked it, and so are its visitors",
    async (variant, family) => {
      open = await openTestOverlay(3);
      const net = open;
      const network = {
        Network: "10.99.0.0/16",
        EnableIPv6: true,
        IPv6Network: "fd00:99::/48",
        Backend: { Type: "vxlan" },
      };
      await net.etcd("put", "/coreos.com/network/config", JSON.stringify(network));
      const [host, world, other] = net.lab.hosts;
      if (host === undefined || world === undefined || other === undefined) throw new Error("no hosts");
      const addressOf = (one: typeof host) => (family === 4 ? one.address : `fd00:77::${one.number}`);
      if (family === 6)
        for (const one of [host, world, other])
          await runProgram([
            ...["ip", "-n", one.namespace, "address", "add", `${addressOf(one)}/64`, "dev", "eth0", "nodad"],
          ]);
      const directory = join(net.lab.directory, "bin");
      mkdirSync(directory);
      const tool = variant === "nftables" ? "iptables-nft" : variant;
      for (const name of ["iptables", "ip6tables"])
        for (const suffix of ["", "-save", "-restore"]) {
          const program = Bun.which(`${tool.replace("iptables", name)}${suffix}`) ?? "";
          symlinkSync(program, join(directory, name + suffix));
        }
      const daemon = net.startDaemon(host, {
        engine: "userspace",
        host: `ip_masq = true\nfirewall = "${variant === "nftables" ? "nftables" : "iptables"}"`,
        env: { PATH: `${directory}:${process.env["PATH"]}` },
      });
      const report = await daemon.ready(0);

      const [length, more] = family === 4 ? ["24", []] : ["64", ["-6"]];
      const first = vtepAddress(report, family);
      const at = (last: number) => (family === 4 ? first.replace(/0$/, `${last}`) : `${first}${last}`);
      pod = `${net.lab.name}-pod`;
      await runProgram(["ip", "netns", "add", pod]);
      const onHost = (...args: string[]) => runProgram(["ip", "-n", host.namespace, ...args]);
      await onHost("link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", pod);
      const nodad = family === 6 ? ["nodad"] : [];
      await onHost("address", "add", `${at(1)}/${length}`, "dev", "veth0", ...nodad);
      await onHost("link", "set", "veth0", "up");
      await runProgram(["ip", "-n", pod, "link", "set", "lo", "up"]);
      await runProgram(["ip", "-n", pod, "address", "add", `${at(7)}/${length}`, "dev", "eth0", ...nodad]);
      await runProgram(["ip", "-n", pod, "link", "set", "eth0", "up"]);
      await runProgram(["ip", "-n", pod, ...more, "route", "add", "default", "via", at(1)]);
      for (const one of [world, other]) {
        const route = ["route", "add", `${first}/${length}`, "via", addressOf(host)];
        await runProgram(["ip", "-n", one.namespace, ...more, ...route]);
      }
      // As kube-proxy marks what its own chain masquerades, or lets pass.
      const mark = ["-t", "mangle", "-A", "PREROUTING", "-d", addressOf(other), "-j", "MARK"];
      const iptables = family === 4 ? tool : tool.replace("iptables", "ip6tables");
      await inside(host.namespace, [iptables, ...mark, "--set-xmark", "0x4000/0x4000"]);
      for (const namespace of [pod, world.namespace, other.namespace]) {
        const reader = net.lab.start(namespace, [process.execPath, "-e", answering]).output.getReader();
        expect(new TextDecoder().decode((await reader.read()).value)).toBe("up\n");
        reader.releaseLock();
      }
      const seen = {
        outside: await seenFrom(pod, addressOf(world)),
        marked: await seenFrom(pod, addressOf(other)),
        visitor: await seenFrom(world.namespace, at(7)),
      };
      expect(seen).toEqual({ outside: addressOf(host), marked: at(7), visitor: addressOf(world) });
    },
  );
});
