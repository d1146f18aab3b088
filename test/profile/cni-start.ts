/**
 * What a pod waits for until the CNI plugin has started, as a ratio to plugins written in Go: pairs, one after the
 * other, medians. `FLANNEL_CNI_BIN` names flannel's own plugin, where there is one; `CNI_START_PAIRS` how many pairs.
 */
import { existsSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spreadOf } from "../../src/bench/statistics.ts";

interface Start {
  readonly name: string;
  readonly command: readonly string[];
  readonly cniCommand: string;
}

const pairs = Number(process.env["CNI_START_PAIRS"] ?? 25);
const binary = join(import.meta.dir, "../../dist/flannel-lite");
const directory = mkdtempSync(join(tmpdir(), "fl-cni-start-"));
const plugin = join(directory, "flannel");
symlinkSync(binary, plugin);

const config = JSON.stringify({
  name: "net",
  type: "flannel",
  cniVersion: "1.0.0",
  dataDir: join(directory, "data"),
});
const env = {
  CNI_CONTAINERID: "pod",
  CNI_IFNAME: "eth0",
  CNI_PATH: "/usr/lib/cni",
};

/** @returns milliseconds from the start to the end of the process */
function timed({ command, cniCommand }: Start): number {
  const begin = Bun.nanoseconds();
  const { exitCode, stdout } = Bun.spawnSync([...command], {
    env: { ...env, CNI_COMMAND: cniCommand },
    stdin: Buffer.from(config),
    stderr: "ignore",
  });
  const ms = (Bun.nanoseconds() - begin) / 1e6;
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stdout.toString()}`);
  return ms;
}

const version: Start = { name: "flannel VERSION", command: [plugin], cniCommand: "VERSION" };
const ours: readonly Start[] = [
  version,
  { name: "flannel DEL", command: [plugin], cniCommand: "DEL" },
  { name: "flannel-lite version", command: [binary, "version"], cniCommand: "" },
];
const theirs = [process.env["FLANNEL_CNI_BIN"] ?? "", "/usr/lib/cni/host-local", "/usr/lib/cni/bridge"]
  .filter((path) => existsSync(path))
  .map((path): Start => ({ name: path, command: [path], cniCommand: "VERSION" }));

try {
  for (const start of [...ours, ...theirs]) timed(start); // the files are in memory from here on
  for (const own of ours) {
    for (const stock of theirs) {
      const rounds = Array.from({ length: pairs }, () => ({ own: timed(own), stock: timed(stock) }));
      const ratio = spreadOf(rounds.map((round) => round.own / round.stock));
      const [mine, other] = [
        spreadOf(rounds.map((round) => round.own)),
        spreadOf(rounds.map((round) => round.stock)),
      ];
      process.stdout.write(
        `${own.name} / ${stock.name} VERSION: ${ratio.median.toFixed(2)} of ${pairs} pairs (${mine.median.toFixed(1)} ms, at least ${mine.min.toFixed(1)}; ${other.median.toFixed(1)} ms, at least ${other.min.toFixed(1)})\n`,
      );
    }
  }
} finally {
  rmSync(directory, { recursive: true, force: true });
}
