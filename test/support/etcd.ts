import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A real etcd on loopback: one that is alone, or a member of a cluster. */
export interface Etcd extends AsyncDisposable {
  readonly endpoint: string;
  readonly pid: number;
  /** Ends it at once, as `kill -9`; the data stays. */
  kill(): Promise<void>;
  /**
   * Starts it again on the same ports and data, `wiped` without the data; resolves when it answers. With
   * authentication on it refuses this helper: `open: false` takes a refusal for an answer.
   */
  start(options?: { wiped?: boolean; open?: boolean }): Promise<void>;
  /** It keeps its connections and says nothing, until `resume`. */
  pause(): void;
  resume(): void;
  /** One call of the v3 JSON gateway; rejects unless the answer is 200. */
  call(path: string, body: object): Promise<Record<string, unknown>>;
  put(key: string, value: string, ttlSeconds?: number): Promise<void>;
  get(key: string): Promise<{ value: string; lease: string; revision: string } | undefined>;
  delete(key: string): Promise<void>;
  /** Forgets the history up to now. */
  compact(): Promise<void>;
}

export interface EtcdOptions {
  /** Serves clients over TLS; `ca` makes client certificates mandatory. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca?: string };
  /** Serves API v2 beside v3. */
  readonly v2?: boolean;
  /** `false` switches the JSON gateway off, and with it all of this helper's calls. */
  readonly gateway?: boolean;
}

const startMsMax = 20_000;

/** Starts etcd with a data directory of its own; throws where no etcd is installed. */
export async function startEtcd(options: EtcdOptions = {}): Promise<Etcd> {
  const [member = missing()] = await startEtcdCluster(1, options);
  return member;
}

/** Starts the members of one cluster; each is ended by itself. */
export async function startEtcdCluster(size: number, options: EtcdOptions = {}): Promise<Etcd[]> {
  const peers = freePorts(size);
  const initial = peers.map((port, at) => `fl${at}=http://127.0.0.1:${port}`).join(",");
  const started = await Promise.allSettled(
    peers.map((_, at) => startMember({ name: `fl${at}`, initial }, options)),
  );
  const members = started.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const failed = started.find((result) => result.status === "rejected");
  if (failed === undefined) return members;
  for (const member of members) await member[Symbol.asyncDispose]();
  throw failed.reason;
}

interface Membership {
  readonly name: string;
  /** All members with their peer URLs, as etcd takes them. */
  readonly initial: string;
}

async function startMember({ name, initial }: Membership, options: EtcdOptions): Promise<Etcd> {
  const program = etcdProgram();
  const directory = mkdtempSync(join(tmpdir(), "fl-etcd-"));
  const data = join(directory, "data");
  const [client] = freePorts(1);
  const scheme = options.tls === undefined ? "http" : "https";
  const endpoint = `${scheme}://127.0.0.1:${client}`;
  const peerUrl =
    initial
      .split(",")
      .find((member) => member.startsWith(`${name}=`))
      ?.split("=")[1] ?? "";
  let child: Bun.Subprocess | undefined;

  const spawn = () =>
    Bun.spawn(
      [
        program,
        ...["--name", name, "--data-dir", data],
        ...["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint],
        ...["--listen-peer-urls", peerUrl, "--initial-advertise-peer-urls", peerUrl],
        ...["--initial-cluster", initial, "--heartbeat-interval", "50", "--election-timeout", "500"],
        `--enable-v2=${options.v2 ?? false}`,
        `--enable-grpc-gateway=${options.gateway ?? true}`,
        ...tlsFlags(options),
      ],
      { stdout: "ignore", stderr: Bun.file(join(directory, "log")), env: {} },
    );

  const kill = async () => {
    child?.kill("SIGKILL");
    await child?.exited;
    child = undefined;
  };

  const answer = async (path: string, body: object): Promise<Record<string, unknown>> => {
    const tls =
      options.tls === undefined ? {} : { tls: { rejectUnauthorized: false, ...clientTls(options) } };
    const signal = AbortSignal.timeout(5_000);
    const request = { method: "POST", body: JSON.stringify(body), signal, proxy: false as const, ...tls };
    const response = await fetch(`${endpoint}${path}`, request);
    const text = await response.text();
    if (response.status !== 200) throw new Error(`etcd ${path}: HTTP ${response.status} ${text}`);
    return JSON.parse(text) as Record<string, unknown>;
  };

  const start = async ({ wiped = false, open = true } = {}) => {
    if (wiped) rmSync(data, { recursive: true, force: true });
    child = spawn();
    const deadline = Date.now() + startMsMax;
    for (;;) {
      try {
        await answer("/v3/kv/range", { key: base64("x") });
        return;
      } catch (error) {
        const text = error instanceof Error ? error.message : "";
        if (!open && text.includes("user name is empty")) return;
        // The port is served as soon as etcd is ready, whether the gateway is on it or not.
        if (options.gateway === false && text.includes("HTTP 404")) return;
        if (child.exitCode === null && Date.now() < deadline) {
          await Bun.sleep(50);
          continue;
        }
        const log = await Bun.file(join(directory, "log")).text();
        throw new Error(`etcd does not start: ${log.slice(-2_000)}`, { cause: error });
      }
    }
  };

  const dispose = async () => {
    await kill();
    rmSync(directory, { recursive: true, force: true });
  };

  try {
    await start();
  } catch (error) {
    await dispose();
    throw error;
  }

  return {
    endpoint,
    get pid() {
      return child?.pid ?? 0;
    },
    kill,
    start,
    pause: () => child?.kill("SIGSTOP"),
    resume: () => child?.kill("SIGCONT"),
    call: answer,
    ...keysBy(answer),
    [Symbol.asyncDispose]: dispose,
  };
}

/** A hand in the keys of etcd, or of what answers as one, by calls of its JSON gateway. */
export function keysBy(
  call: (path: string, body: object) => Promise<Record<string, unknown>>,
): Pick<Etcd, "put" | "get" | "delete" | "compact"> {
  return {
    async put(key, value, ttlSeconds) {
      const lease =
        ttlSeconds === undefined ? "0" : (await call("/v3/lease/grant", { TTL: String(ttlSeconds) }))["ID"];
      await call("/v3/kv/put", { key: base64(key), value: base64(value), lease });
    },
    async get(key) {
      const { kvs = [] } = (await call("/v3/kv/range", { key: base64(key) })) as {
        kvs?: { value: string; lease?: string; mod_revision: string }[];
      };
      const [found] = kvs;
      if (found === undefined) return undefined;
      const value = Buffer.from(found.value ?? "", "base64").toString("utf8");
      return { value, lease: found.lease ?? "0", revision: found.mod_revision };
    },
    async delete(key) {
      await call("/v3/kv/deleterange", { key: base64(key) });
    },
    async compact() {
      const { header } = (await call("/v3/kv/range", { key: base64("x") })) as {
        header: { revision: string };
      };
      await call("/v3/kv/compaction", { revision: header.revision, physical: true });
    },
  };
}

function missing(): never {
  throw new Error("no member was started");
}

/** From PATH, else where the build unpacks it. */
export function etcdProgram(): string {
  const unpacked = join(import.meta.dir, "../../dist/tools/etcd/usr/bin/etcd");
  const found = Bun.which("etcd") ?? Bun.which(unpacked);
  if (found === null) throw new Error(`no etcd in PATH and none at ${unpacked}: install it or run make`);
  return found;
}

/** TCP ports that are free on loopback, all different. */
export function freePorts(count: number): number[] {
  const listeners = Array.from({ length: count }, () =>
    Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } }),
  );
  const ports = listeners.map((listener) => listener.port);
  for (const listener of listeners) listener.stop(true);
  return ports;
}

function tlsFlags({ tls }: EtcdOptions): string[] {
  if (tls === undefined) return [];
  const client = tls.ca === undefined ? [] : ["--trusted-ca-file", tls.ca, "--client-cert-auth"];
  return ["--cert-file", tls.cert, "--key-file", tls.key, ...client];
}

/** The server's own certificate serves as client certificate for the helper's calls. */
function clientTls({ tls }: EtcdOptions): object {
  return tls?.ca === undefined ? {} : { cert: Bun.file(tls.cert), key: Bun.file(tls.key) };
}

function base64(text: string): string {
  return Buffer.from(text).toString("base64");
}
