import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { parseNetworkConfig } from "../../src/config/network.ts";
import { leaseKey } from "../../src/lease/lease.ts";
import { parsePrefix } from "../../src/net/prefix.ts";
import { openEtcdStore } from "../../src/store/etcd/store.ts";
import { type Etcd, startEtcd } from "../support/etcd.ts";
import { type EtcdV2Keys, etcdV2Keys } from "../support/etcd-v2.ts";
import { acquired, leaseForm, never } from "./store.ts";

const binary = join(import.meta.dir, "../../dist/flannel-lite");
const document = '{"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":1}}';
const bigIp = ["--public-ip", "192.0.2.245", "--vtep-mac", "00:0C:29:2E:DB:2E"];

let etcd: Etcd;
let v2: EtcdV2Keys;
let directory: string;
let worlds = 0;

beforeAll(async () => {
  if (!existsSync(binary)) throw new Error(`${binary} is missing: run make`);
  directory = mkdtempSync(join(tmpdir(), "fl-operator-"));
  etcd = await startEtcd({ v2: true });
  v2 = etcdV2Keys(etcd);
});

afterAll(async () => {
  rmSync(directory, { recursive: true, force: true });
  await etcd?.[Symbol.asyncDispose]();
});

interface World {
  /** Runs the program as an operator would. */
  run(...args: string[]): Promise<{ code: number; output: string; errors: string }>;
  /** The same with `--json`, which must succeed. */
  json(...args: string[]): Promise<Record<string, unknown>>;
  put(key: string, value: string, ttlSeconds?: number): Promise<void>;
  get(key: string): Promise<{ value: string; lapses: boolean } | undefined>;
  /** A node's lease, taken as a daemon takes it. */
  lease(publicIp: string, subnet: string): Promise<void>;
  form: ReturnType<typeof leaseForm>;
  prefix: string;
}

const apis = ["v3 gateway", "v3 grpc", "v2"] as const;

function world(api: (typeof apis)[number]): World {
  const prefix = `/operator/${worlds++}`;
  const isV2 = api === "v2";
  const form = leaseForm(isV2 ? "v2" : "v3");
  const transport = api === "v3 grpc" ? "grpc" : "gateway";
  const config = join(directory, `${worlds}.toml`);
  writeFileSync(
    config,
    `[store.etcd]\nendpoints = ["${etcd.endpoint}"]\nprefix = "${prefix}"\ntransport = "${transport}"\n[host]\nnode_id = "id-of-192.0.2.1"\n`,
  );
  const run: World["run"] = async (command = "", ...args) => {
    const child = Bun.spawn([binary, command, "--config", config, ...args], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: {},
      cwd: directory,
    });
    const [output, errors] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    return { code: await child.exited, output, errors };
  };
  const put: World["put"] = (key, value, ttlSeconds) =>
    (isV2 ? v2 : etcd).put(`${prefix}/${key}`, value, ttlSeconds);
  return {
    run,
    put,
    form,
    prefix,
    async json(...args) {
      const { code, output, errors } = await run(...args, "--json");
      if (code !== 0 || errors !== "") throw new Error(`exit code ${code}: ${errors}`);
      return JSON.parse(output) as Record<string, unknown>;
    },
    async get(key) {
      if (isV2) {
        const found = await v2.get(`${prefix}/${key}`);
        return found && { value: found.value, lapses: found.lapses };
      }
      const found = await etcd.get(`${prefix}/${key}`);
      return found && { value: found.value, lapses: found.lease !== "0" };
    },
    async lease(publicIp, subnet) {
      const options = { endpoints: [etcd.endpoint], prefix, log: silentLog, clock: systemClock };
      await using store = openEtcdStore({ ...options, api: isV2 ? "v2" : "v3" });
      const mac = `02:00:00:00:00:${publicIp.split(".")[3]?.padStart(2, "0")}`;
      const attributes = () => form.attributesOf(publicIp, mac);
      const network = parseNetworkConfig(document);
      const request = form.requestFor(publicIp, {
        network,
        attributes,
        exactly: { ipv4: parsePrefix(subnet) },
      });
      acquired(await store.acquire(request, never));
    },
  };
}

test.each(apis)(
  "leases: a gateway's reservation is flannel's key without a term, listed, and released (%s)",
  async (api) => {
    const { run, json, put, get, lease, form } = world(api);
    await put("config", document);
    await lease("192.0.2.1", "10.5.1.0/24");
    await lease("192.0.2.2", "10.5.2.0/24");
    const value =
      '{"PublicIP":"192.0.2.245","BackendType":"vxlan","BackendData":{"VtepMAC":"00:0c:29:2e:db:2e"}}';
    const made = await run("leases", "reserve", "10.5.100.0/24", ...bigIp);
    expect(made).toEqual({ code: 0, output: "reserved 10.5.100.0-24 for 192.0.2.245\n", errors: "" });
    expect(await get("subnets/10.5.100.0-24")).toEqual({
      value: api === "v2" ? value : value.replace(',"BackendType"', ',"PublicIPv6":null,"BackendType"'),
      lapses: false,
    });
    const { leases } = await json("leases");
    expect(leases).toEqual([
      {
        subnets: ["10.5.1.0/24"],
        publicIp: "192.0.2.1",
        vtepMac: "02:00:00:00:00:01",
        backendType: "vxlan",
        expiresAt: expect.stringMatching(/^20\d\d-/),
        reservation: false,
        own: true,
        node: { id: "id-of-192.0.2.1", name: "name-of-192.0.2.1" },
        readable: true,
      },
      expect.objectContaining({ publicIp: "192.0.2.2", own: false, reservation: false }),
      {
        subnets: ["10.5.100.0/24"],
        publicIp: "192.0.2.245",
        vtepMac: "00:0c:29:2e:db:2e",
        backendType: "vxlan",
        expiresAt: null,
        reservation: true,
        own: false,
        node: null,
        readable: true,
      },
    ]);
    const table = (await run("leases", "list")).output.split("\n");
    expect(table[0]).toMatch(/^ {2}SUBNET +PUBLIC IP +VTEP MAC +BACKEND +EXPIRES +NODE$/);
    expect(table[1]).toMatch(
      /^\* 10\.5\.1\.0\/24 +192\.0\.2\.1 +02:00:00:00:00:01 +vxlan +20\S+ +name-of-192\.0\.2\.1$/,
    );
    expect(table[3]).toMatch(
      /^ {2}10\.5\.100\.0\/24 +192\.0\.2\.245 +00:0c:29:2e:db:2e +vxlan +reservation +-$/,
    );
    expect(form.valueOf("192.0.2.1")).not.toBe(value);

    expect((await run("leases", "release", "10.5.100.0-24")).output).toStartWith(
      "released 10.5.100.0-24: it was a reservation at 192.0.2.245 with VTEP MAC 00:0c:29:2e:db:2e",
    );
    expect(await get("subnets/10.5.100.0-24")).toBeUndefined();
  },
);

test.each(apis)("leases reserve: nothing in use is reserved, and who has it is named (%s)", async (api) => {
  const { run, put, get, lease } = world(api);
  await put("config", document);
  await lease("192.0.2.2", "10.5.2.0/24");
  await put("subnets/10.5.100.0-24", '{"PublicIP":"192.0.2.245","BackendType":"vxlan"}');
  await put("subnets/10.5.101.0-24", "{unreadable");
  const refusals: [args: string[], reason: string][] = [
    [["10.6.0.0/24", ...bigIp], "10.6.0.0/24 is outside of the network, 10.5.0.0/16"],
    [["10.5.2.0/24", ...bigIp], '10.5.2.0-24 overlaps 10.5.2.0-24, the lease of node "name-of-192.0.2.2"'],
    [["10.5.2.128/25", ...bigIp], "10.5.2.128-25 overlaps 10.5.2.0-24"],
    [["10.5.100.0/23", ...bigIp], "overlaps 10.5.100.0-24, a reservation at 192.0.2.245"],
    [["10.5.101.0/24", ...bigIp], "overlaps 10.5.101.0-24, a reservation with a value that cannot be read"],
    [["10.5.9.0/24", "--public-ip=192.0.2.2"], "a node has this public IP: 10.5.2.0-24"],
    [
      ["10.5.9.0/24", "--public-ip=192.0.2.9", "--vtep-mac=02:00:00:00:00:02"],
      "another lease has this VTEP MAC",
    ],
  ];
  for (const [args, reason] of refusals) {
    const { code, output, errors } = await run("leases", "reserve", ...args);
    expect({ code, output }).toEqual({ code: 1, output: "" });
    expect(errors).toContain(reason);
  }
  for (const key of ["10.6.0.0-24", "10.5.2.128-25", "10.5.100.0-23", "10.5.9.0-24"]) {
    expect(await get(`subnets/${key}`)).toBeUndefined();
  }
});

test.each(apis)(
  "leases release: a node that is alive keeps its lease, unless it is forced (%s)",
  async (api) => {
    const { run, json, put, get, lease } = world(api);
    await put("config", document);
    await lease("192.0.2.2", "10.5.2.0/24");
    const refused = await run("leases", "release", "10.5.2.0/24");
    expect(refused.code).toBe(1);
    expect(refused.errors).toContain(
      '10.5.2.0-24 is in use: the lease of node "name-of-192.0.2.2" (id "id-of-192.0.2.2") at 192.0.2.2',
    );
    expect(refused.errors).toContain("-force");
    expect(await get("subnets/10.5.2.0-24")).toBeDefined();
    expect(await json("leases", "release", "10.5.2.0/24", "--force")).toMatchObject({
      released: { publicIp: "192.0.2.2" },
    });
    expect(await get("subnets/10.5.2.0-24")).toBeUndefined();
    expect(await get("nodes/192.0.2.2")).toBeUndefined();
    const absent = await run("leases", "release", "10.5.2.0/24");
    expect(absent).toMatchObject({ code: 1, errors: expect.stringContaining("no lease 10.5.2.0-24") });
  },
);

test.each(apis)("leases release: a reservation that a node lives on is that node's (%s)", async (api) => {
  const { run, put, lease, form } = world(api);
  await put("config", document);
  await put("subnets/10.5.2.0-24", form.valueOf("192.0.2.2", "02:00:00:00:00:02"));
  await lease("192.0.2.2", "10.5.2.0/24");
  const { code, errors } = await run("leases", "release", "10.5.2.0/24");
  expect(code).toBe(1);
  expect(errors).toContain('node "name-of-192.0.2.2"');
});

test("leases: words and flags that make no sense are mistakes of the operator, before etcd is asked", async () => {
  const { run } = world("v3 gateway");
  const mistakes: [args: string[], reason: string][] = [
    [["leases", "lst"], "leases takes list"],
    [["leases", "list", "10.5.1.0/24"], "one word too many"],
    [["leases", "reserve"], "name a subnet"],
    [["leases", "reserve", "10.5.9.7/24", ...bigIp], "not a subnet such as"],
    [["leases", "reserve", "fd00::/64", ...bigIp], "not a subnet such as"],
    [["leases", "reserve", "10.5.9.0/24"], "-public-ip is needed"],
    [["leases", "reserve", "10.5.9.0/24", "--public-ip", "fd00::1"], "public-ip"],
    [
      ["leases", "reserve", "10.5.9.0/24", "--public-ip", "192.0.2.9", "--vtep-mac", "ff:ff:ff:ff:ff:ff"],
      "-vtep-mac",
    ],
    [["leases", "reserve", "10.5.9.0/24", "--public-ip", "192.0.2.9", "--backend-data", "{"], "not JSON"],
    [["leases", "reserve", "10.5.9.0/24", ...bigIp, "--backend-data", "{}"], "exclude each other"],
    [["network", "put"], "network takes get"],
    [["network", "set"], "either a FILE"],
    [["network", "set", "f", "--document", "{}"], "either a FILE"],
    [["network", "set", "/does/not/exist"], "cannot read the document"],
  ];
  for (const [args, reason] of mistakes) {
    const { code, output, errors } = await run(...args);
    expect([args, code, output]).toEqual([args, 2, ""]);
    expect(errors).toContain(reason);
  }
});

test.each(apis)(
  "network: set checks before it writes, shows the difference, and get gives it back (%s)",
  async (api) => {
    const { run, json, put, get } = world(api);
    if (api === "v2") await put("config", document);
    else {
      expect(await run("network")).toMatchObject({
        code: 1,
        errors: expect.stringContaining("no network configuration"),
      });
      const first = await run("network", "set", "--document", document);
      expect(first).toMatchObject({ code: 0, errors: "" });
      expect(first.output).toStartWith(
        '+ Network: "10.5.0.0/16"\n+ SubnetLen: 24\n+ Backend.Type: "vxlan"\n',
      );
    }
    expect(await get("config")).toEqual({ value: document, lapses: false });
    expect((await run("network", "get")).output).toBe(`${document}\n`);
    expect(await json("network", "get")).toMatchObject({ document });
    for (const bad of ["{", '{"Network":"10.5.0.0"}', '{"Network":"10.5.0.0/16","SubnetLen":31}']) {
      expect(await run("network", "set", "--document", bad)).toMatchObject({ code: 1, output: "" });
    }
    expect(await get("config")).toEqual({ value: document, lapses: false });
    const file = join(directory, "net-conf.json");
    const next = document.replace('"VNI":1', '"VNI":7,"Port":4789');
    writeFileSync(file, next);
    const { output } = await run("network", "set", file);
    expect(output).toStartWith("- Backend.VNI: 1\n+ Backend.VNI: 7\n+ Backend.Port: 4789\n# written to etcd");
    expect(await json("network", "set", file)).toMatchObject({ changed: false, difference: [] });
    expect((await get("config"))?.value).toBe(next);
  },
);

test.each(apis)(
  "network set: leases that would have no place are named and refused, unless it is forced (%s)",
  async (api) => {
    const { run, json, put, get, lease } = world(api);
    await put("config", document);
    await lease("192.0.2.2", "10.5.2.0/24");
    await run("leases", "reserve", "10.5.100.0/24", ...bigIp);
    const longer = document.replace("24", "25");
    const refused = await run("network", "set", "--document", longer);
    expect(refused.code).toBe(1);
    expect(refused.errors).toContain("1 leases have no place");
    expect(refused.errors).toContain('node "name-of-192.0.2.2"');
    expect((await get("config"))?.value).toBe(document);
    const moved = document.replace("10.5.0.0", "10.6.0.0");
    expect((await run("network", "set", "--document", moved)).errors).toContain(
      "10.5.100.0/24 is outside of 10.6.0.0/16",
    );
    // A reservation may lie outside of what nodes are given.
    const around = document.replace(
      '"SubnetLen"',
      '"SubnetMin":"10.5.1.0","SubnetMax":"10.5.99.0","SubnetLen"',
    );
    expect(await run("network", "set", "--document", around)).toMatchObject({ code: 0 });
    expect(await json("network", "set", "--document", longer, "--force")).toMatchObject({
      changed: true,
      stranded: ["10.5.2.0-24"],
    });
    expect((await get("config"))?.value).toBe(longer);
  },
);

test("network set: a document comes from standard input too", async () => {
  const { prefix } = world("v3 gateway");
  const child = Bun.spawn(
    [binary, "network", "set", "-", "--etcd-endpoints", etcd.endpoint, "--etcd-prefix", prefix],
    { stdin: Buffer.from(document), stdout: "ignore", stderr: "inherit", env: {}, cwd: directory },
  );
  expect(await child.exited).toBe(0);
  expect((await etcd.get(`${prefix}/config`))?.value).toBe(document);
});

/** A network in API v2: two nodes of flannel 0.11, a reservation, and what is of no use. */
async function v2Network(prefix: string): Promise<Map<string, string>> {
  const { valueOf } = leaseForm("v2");
  const values = new Map([
    [`${prefix}/config`, document],
    [`${prefix}/subnets/10.5.1.0-24`, valueOf("192.0.2.1", "02:00:00:00:00:01")],
    [`${prefix}/subnets/10.5.2.0-24`, valueOf("192.0.2.2", "02:00:00:00:00:02")],
    [`${prefix}/subnets/10.5.100.0-24`, valueOf("192.0.2.245", "00:0c:29:2e:db:2e")],
  ]);
  for (const [key, value] of values) {
    await v2.put(key, value, /\.[12]\.0-24$/.test(key) ? 4_000 : undefined);
  }
  await v2.put(`${prefix}/subnets/notes`, "of no use");
  await v2.put(`${prefix}/subnets/10.5.3.0-24`, "{unreadable", 4_000);
  await v2.put(`${prefix}/nodes/192.0.2.1`, '{"id":"a","name":"b","subnet":"10.5.1.0-24"}', 4_000);
  return values;
}

test.each(["v3 gateway", "v3 grpc"] as const)(
  "migrate-v2: configuration, leases with their remaining time and reservations without stand in v3, byte for byte (%s)",
  async (api) => {
    const { run, json, prefix } = world(api);
    const values = await v2Network(prefix);
    const done = await run("network", "migrate-v2");
    expect(done).toMatchObject({ code: 0, errors: "" });
    for (const [key, value] of values) {
      const found = await etcd.get(key);
      expect([key, found?.value]).toEqual([key, value]);
      expect(await v2.get(key)).toMatchObject({ value });
      expect(done.output).toContain(`copied ${key}`);
      if (found === undefined || found.lease === "0") {
        expect(key).toMatch(/config$|100\.0-24$/);
        continue;
      }
      const { TTL } = await etcd.call("/v3/lease/timetolive", { ID: found.lease });
      expect(Number(TTL)).toBeGreaterThan(3_900);
      expect(Number(TTL)).toBeLessThanOrEqual(4_000);
    }
    expect(done.output).toContain("# 4 keys of API v2 verified");
    expect(done.output).toContain(`not copied: "${prefix}/subnets/notes"`);
    for (const key of ["subnets/10.5.3.0-24", "nodes/192.0.2.1"]) {
      expect(await etcd.get(`${prefix}/${key}`)).toBeUndefined();
    }
    // From here on the program goes by v3; a second copy has nothing to do.
    expect(await json("leases")).toMatchObject({
      store: expect.not.stringContaining("v2"),
      leases: { length: 3 },
    });
    expect(await json("network", "migrate-v2")).toMatchObject({ copied: [], present: { length: 4 } });
  },
);

test("migrate-v2: whatever else v3 holds is not overwritten, and nothing is written beside it", async () => {
  const { valueOf } = leaseForm("v3");
  const cases: [key: string, value: string, reason: string][] = [
    ["config", '{"Network":"10.9.0.0/16"}', 'config" has another value'],
    ["subnets/10.5.1.0-24", valueOf("192.0.2.77"), '10.5.1.0-24" has another value'],
    ["subnets/10.5.77.0-24", valueOf("192.0.2.77"), '10.5.77.0-24" is not in v2'],
    [
      "subnets/10.5.1.0-24",
      leaseForm("v2").valueOf("192.0.2.1", "02:00:00:00:00:01"),
      "does not lapse, in v2 it does",
    ],
  ];
  for (const [key, value, reason] of cases) {
    const { run, prefix } = world("v3 gateway");
    const values = await v2Network(prefix);
    await etcd.put(`${prefix}/${key}`, value);
    const { code, output, errors } = await run("network", "migrate-v2");
    expect({ code, output }).toEqual({ code: 1, output: "" });
    expect(errors).toContain("nothing was written");
    expect(errors).toContain(reason);
    const standing = await Promise.all([...values.keys()].map((one) => etcd.get(one)));
    expect(standing.filter((one) => one !== undefined)).toHaveLength(
      [...values.keys()].includes(`${prefix}/${key}`) ? 1 : 0,
    );
    expect((await etcd.get(`${prefix}/${key}`))?.value).toBe(value);
  }
});

test("migrate-v2: without a network in v2 there is nothing to copy, and that is said", async () => {
  const { run } = world("v3 gateway");
  const { code, errors } = await run("network", "migrate-v2");
  expect(code).toBe(1);
  expect(errors).toContain("there is nothing to copy");
});

test("migrate-v2: a node that goes over keeps its subnet, and its value is written as of today", async () => {
  const { run, prefix } = world("v3 gateway");
  await v2Network(prefix);
  await run("network", "migrate-v2");
  const options = {
    endpoints: [etcd.endpoint],
    prefix,
    log: silentLog,
    clock: systemClock,
    api: "auto" as const,
  };
  await using store = openEtcdStore(options);
  const { requestFor, valueOf } = leaseForm("v3");
  const lease = acquired(
    await store.acquire(requestFor("192.0.2.1", { network: parseNetworkConfig(document) }), never),
  );
  expect(leaseKey(lease.subnets)).toBe("10.5.1.0-24");
  expect((await etcd.get(`${prefix}/subnets/10.5.1.0-24`))?.value).toBe(valueOf("192.0.2.1"));
});
