import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { flanneldFlagsGone, flanneldFlagsWithoutEffect } from "../../src/config/flanneld-flags.ts";
import { type Setting, settings } from "../../src/config/schema.ts";
import { binary } from "../support/overlay.ts";

/** What flanneld's flags say, in its words, and what becomes of it. */
const samples: Record<string, readonly [text: string, value: unknown]> = {
  "etcd-endpoints": [
    "https://192.0.2.1:2379,https://192.0.2.2:2379",
    ["https://192.0.2.1:2379", "https://192.0.2.2:2379"],
  ],
  "etcd-prefix": ["/kubernetes/network/", "/kubernetes/network"],
  "etcd-keyfile": ["/etc/flanneld/cert/flanneld-key.pem", "/etc/flanneld/cert/flanneld-key.pem"],
  "etcd-certfile": ["/etc/flanneld/cert/flanneld.pem", "/etc/flanneld/cert/flanneld.pem"],
  "etcd-cafile": ["/etc/kubernetes/cert/ca.pem", "/etc/kubernetes/cert/ca.pem"],
  "etcd-username": ["flannel", "flannel"],
  "etcd-password": ["s3cret", "<hidden>"],
  iface: ["eth7", ["eth7"]],
  "iface-regex": [String.raw`^192\.0\.2\.[0-9]+$`, [String.raw`^192\.0\.2\.[0-9]+$`]],
  "iface-can-reach": ["198.51.100.1", "198.51.100.1"],
  "subnet-file": ["/run/flannel/other.env", "/run/flannel/other.env"],
  "public-ip": ["192.0.2.7", "192.0.2.7"],
  "public-ipv6": ["2001:db8::7", "2001:db8::7"],
  "subnet-lease-renew-margin": ["0x1e", 30],
  "ip-masq": ["true", true],
  "ip-masq-fully-random-disable": ["T", true],
  "kube-subnet-mgr": ["false", "etcd"],
  "kube-api-url": ["https://192.0.2.1:6443", "https://192.0.2.1:6443"],
  "kube-annotation-prefix": ["org.com/9", "org.com/9"],
  "kubeconfig-file": ["/etc/kubeconfig", "/etc/kubeconfig"],
  "net-config-path": ["/etc/net-conf.json", "/etc/net-conf.json"],
  "set-node-network-unavailable": ["0", false],
  "healthz-ip": ["127.0.0.1", "127.0.0.1"],
  "healthz-port": ["8080", 8080],
  "iptables-forward-rules": ["false", false],
  "ip-blackhole-route": ["1", true],
  v: ["2", "debug"],
};
/** Taken with a warning. */
const idle: Record<string, string> = {
  "iptables-resync": "5",
  vmodule: "vxlan=3",
  log_backtrace_at: "vxlan.go:10",
  "use-multi-cluster-cidr": "true",
};

interface Answer {
  readonly code: number;
  readonly output: string;
  readonly errors: string;
}

const directory = mkdtempSync(join(tmpdir(), "fl-flags-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const flanneld = join(directory, "flanneld");
symlinkSync(binary, flanneld);

async function start(command: readonly string[], env: Record<string, string> = {}): Promise<Answer> {
  const child = Bun.spawn([...command], {
    env: { PATH: process.env["PATH"] ?? "", ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: 30_000,
  });
  const [output, errors, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, output, errors };
}

type Checked = Record<string, { readonly value: unknown; readonly origin: string }>;

async function check(flags: readonly string[], env: Record<string, string> = {}): Promise<[Checked, Answer]> {
  const answer = await start([binary, "check", "-json", ...flags], env);
  expect([answer.code, answer.code === 0 ? "" : answer.errors]).toEqual([0, ""]);
  return [JSON.parse(answer.output) as Checked, answer];
}

function settingOf(flag: string): Setting {
  const setting = settings.find(({ flags }) => flags.some(({ name }) => name === flag));
  if (setting === undefined) throw new Error(`no setting has the flag ${flag}`);
  return setting;
}

const variableOf = (flag: string) => `FLANNELD_${flag.toUpperCase().replaceAll("-", "_")}`;

describe("flanneld's flags, given to the program", () => {
  test("each sets its option", async () => {
    const [checked] = await check(Object.entries(samples).map(([flag, [text]]) => `--${flag}=${text}`));
    for (const [flag, [, value]] of Object.entries(samples))
      expect([flag, checked[settingOf(flag).path]]).toEqual([flag, { value, origin: `flag -${flag}` }]);
  });

  test("each variable does, and a flag wins over it", async () => {
    const env = Object.fromEntries(Object.entries(samples).map(([flag, [text]]) => [variableOf(flag), text]));
    const [checked] = await check([], env);
    for (const [flag, [, value]] of Object.entries(samples))
      expect([flag, checked[settingOf(flag).path]]).toEqual([
        flag,
        { value, origin: `env ${variableOf(flag)}` },
      ]);
    const [over] = await check(["-etcd-prefix=/flag", "-iface=eth1"], env);
    expect(over["store.etcd.prefix"]).toEqual({ value: "/flag", origin: "flag -etcd-prefix" });
    expect(over["uplink.interface"]).toEqual({ value: ["eth1"], origin: "flag -iface" });
  });

  test("those without effect are taken with a warning, as flag and as variable", async () => {
    expect(Object.keys(idle).sort()).toEqual(flanneldFlagsWithoutEffect.map(({ name }) => name).sort());
    const env = Object.fromEntries(Object.entries(idle).map(([flag, text]) => [variableOf(flag), text]));
    const [, { errors }] = await check(
      Object.entries(idle).map(([flag, text]) => `-${flag}=${text}`),
      env,
    );
    for (const { name, reason } of flanneldFlagsWithoutEffect) {
      expect(errors).toContain(`warning: flag -${name} has no effect: ${reason}\n`);
      expect(errors).toContain(`warning: ${variableOf(name)} has no effect: ${reason}\n`);
    }
  });

  test("all other flags of the program are read too", async () => {
    const names = (setting: Setting) => setting.flags.map(({ name }) => name);
    const others = settings.filter(
      (setting) => !setting.option.secret && names(setting).every((name) => samples[name] === undefined),
    );
    const argumentsOf = ({ flags, option }: Setting): string[] => {
      const given = option.fallback ?? option.example;
      const list = Array.isArray(given) ? given.map(String) : undefined;
      if (list?.length === 0) return [`-${flags[0]?.name}=`];
      if (list !== undefined) return list.map((entry) => `-${flags[0]?.name}=${entry}`);
      return [`-${flags[0]?.name}=${typeof given === "object" ? JSON.stringify(given) : String(given)}`];
    };
    const given = [...others.flatMap(argumentsOf), "-etcd-username=u"];
    const [checked] = await check(given);
    for (const { path, flags } of others)
      expect([path, checked[path]?.origin]).toEqual([path, `flag -${flags[0]?.name}`]);
    expect(others.length).toBeGreaterThan(10);
  });

  test("a mistake ends it with 2 before anything happens; old flags are told what became of them", async () => {
    const flags = ["-no-such-flag", "-subnet-lease-renew-margin=0", "-iface-regex=(", "-healthz-port=x"];
    const { code, output, errors } = await start([binary, "check", ...flags, "-etcd-pasword=s3cret"]);
    expect([code, output]).toEqual([2, ""]);
    for (const flag of [...flags, "-etcd-pasword"]) expect(errors).toContain(flag.replace(/=.*/, ""));
    expect(errors).not.toContain("s3cret");
    const old = await start([binary, "check", ...[...flanneldFlagsGone.keys()].map((name) => `-${name}=1`)]);
    expect(old.code).toBe(2);
    for (const [name, why] of flanneldFlagsGone)
      expect(old.errors).toContain(`flag provided but not defined: -${name} (${why})`);
  });

  test("an invalid variable ends it with 2, an unknown one is a warning", async () => {
    const invalid = await start([binary, "check"], { FLANNELD_HEALTHZ_PORT: "http" });
    expect([invalid.code, invalid.errors]).toEqual([2, expect.stringContaining("FLANNELD_HEALTHZ_PORT")]);
    const [, unknown] = await check([], { FLANNELD_IFACES: "eth0" });
    expect(unknown.errors).toContain(
      "warning: FLANNELD_IFACES has no effect: no such option; did you mean FLANNELD_IFACE?",
    );
  });

  test("-kube-subnet-mgr is the Kubernetes store", async () => {
    const { code, output } = await start([binary, "check", "--kube-subnet-mgr"]);
    expect([code, output]).toEqual([0, expect.stringMatching(/^store\.type += "kubernetes"/m)]);
  });
});

describe("the program under the name flanneld", () => {
  test("-version answers on standard error and is fine", async () => {
    const { code, output, errors } = await start([flanneld, "-version"]);
    expect([code, output, errors]).toEqual([0, "", expect.stringMatching(/^flannel-lite \d+\.\d+\.\d+\n$/)]);
  });

  test("-help lists the flags on standard error, and no commands", async () => {
    const { code, output, errors } = await start([flanneld, "--help"]);
    expect([code, output]).toEqual([0, ""]);
    expect(errors).toStartWith("Usage: flanneld [OPTION]...\n");
    expect(errors).not.toContain("Commands");
    for (const flag of Object.keys({ ...samples, ...idle })) expect(errors).toContain(`\n  -${flag}`);
  });

  test("no word is a command: with flags behind it, it is a mistake", async () => {
    const { code, output, errors } = await start([flanneld, "check", "-ip-masq"]);
    expect([code, output]).toEqual([2, ""]);
    expect(errors).toContain('unexpected argument "check", which ends the flags: those behind it are lost');
  });

  test("an unknown flag is a mistake, not a success", async () => {
    expect((await start([flanneld, "-logtostderr", "-ip-masq"])).code).toBe(2);
  });
});
