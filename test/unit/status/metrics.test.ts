import { expect, test } from "bun:test";
import { dropReasons } from "../../../src/datapath/dgram/drop.ts";
import { expositionText } from "../../../src/status/exposition.ts";
import { metrics, metricsPrefix, metricsText } from "../../../src/status/metrics.ts";
import { stages } from "../../../src/status/progress.ts";
import type { StatusReport } from "../../../src/status/report.ts";
import { parseExposition } from "../../support/exposition.ts";
import { golden } from "../../support/golden.ts";
import { engineStats, statusReport } from "../../support/status-report.ts";

const pageOf = (changes: Partial<StatusReport> = {}, peersMax = 200) =>
  parseExposition(metricsText(statusReport(changes), { peersMax }));

test("metrics: the page of a daemon that carries traffic", () => {
  const text = metricsText(statusReport(), { peersMax: 200 });
  expect(text).toBe(golden("metrics/carrying.txt", text));
});

test("metrics: the page is right, and every metric of the list is on it, each under its prefix", () => {
  const { types } = pageOf();
  expect([...types]).toEqual(metrics.map(({ name, type }) => [metricsPrefix + name, type]));
});

test("metrics: the labels are those that the list names", () => {
  const { series } = pageOf();
  for (const { name, labels } of metrics) {
    const own = series.filter((one) => one.name === metricsPrefix + name);
    expect([name, ...new Set(own.map((one) => Object.keys(one.labels).join()))]).toEqual([
      name,
      labels.join(),
    ]);
  }
});

test("metrics: a daemon that has only just started says what it can", () => {
  const { lease, network, engine, uplink, updates, passes, repairs, firewall, ...rest } = statusReport();
  const started = {
    ...rest,
    up: false,
    ready: false,
    stage: "starting",
    peers: [],
    refused: [],
    held: [],
  } as const;
  const page = parseExposition(metricsText({ ...started, engines: [], certificates: [] }, { peersMax: 200 }));
  expect(page.value("flannel_lite_up")).toBe(0);
  expect(page.value("flannel_lite_ready")).toBe(0);
  expect(
    page.series.filter(({ name }) => /lease|firewall|datapath|reconcile_passes|repairs|contested/.test(name)),
  ).toEqual([]);
  expect([lease, network, engine, uplink, updates, passes, repairs, firewall]).not.toContain(undefined);
});

test("metrics: exactly one stage is 1", () => {
  for (const stage of stages) {
    const { series } = pageOf({ stage });
    const of = series.filter(({ name }) => name === "flannel_lite_stage");
    expect(of.filter(({ value }) => value === 1).map(({ labels }) => labels["stage"])).toEqual([stage]);
    expect(of).toHaveLength(stages.length);
  }
});

test("metrics: a conflict is a conflict and no trouble of the store; a reservation has no expiry", () => {
  const { lease } = statusReport();
  if (lease === undefined) throw new Error("the report has no lease");
  const taken = pageOf({ lease: { ...lease, expiresAt: null, trouble: "another", conflict: "192.0.2.9" } });
  expect(taken.value("flannel_lite_lease_conflict")).toBe(1);
  expect(taken.value("flannel_lite_store_trouble")).toBe(0);
  expect(taken.value("flannel_lite_lease_expiry_timestamp_seconds")).toBeUndefined();
  const fought = pageOf({ lease: { ...lease, contested: true } });
  expect(fought.value("flannel_lite_lease_contested")).toBe(1);
  expect(taken.value("flannel_lite_lease_contested")).toBe(0);
  const away = pageOf({ lease: { ...lease, trouble: "etcd did not answer", confirmedAt: null } });
  expect(away.value("flannel_lite_store_trouble")).toBe(1);
  expect(away.value("flannel_lite_lease_conflict")).toBe(0);
  expect(away.value("flannel_lite_lease_confirmed_timestamp_seconds")).toBeUndefined();
});

test("metrics: refused peers are counted by kind, however many reasons there are", () => {
  const refused = Array.from({ length: 500 }, (_, at) => ({
    subnets: `10.${at}.0.0/24`,
    publicIp: "192.0.2.9",
    reason: `reason ${at}`,
    kind: at % 2 === 0 ? "vtep-mac" : "other",
  }));
  const { series } = pageOf({ refused });
  expect(series.filter(({ name }) => name === "flannel_lite_peers_refused")).toEqual([
    { name: "flannel_lite_peers_refused", labels: { reason: "vtep-mac" }, value: 250 },
    { name: "flannel_lite_peers_refused", labels: { reason: "other" }, value: 250 },
  ]);
});

test("metrics: series of single peers end at the limit, totals stay", () => {
  const isPeers = ({ name }: { name: string }) => name.startsWith("flannel_lite_peer_");
  expect(pageOf({}, 2).series.filter(isPeers)).toHaveLength(8);
  const beyond = pageOf({}, 1);
  expect(beyond.series.filter(isPeers)).toEqual([]);
  expect(beyond.value("flannel_lite_peers")).toBe(2);
  expect(
    beyond.value("flannel_lite_datapath_bytes_total", { device: "flannel.1", direction: "received" }),
  ).toBe(2_000);
});

test("metrics: two peers behind one address are one series", () => {
  const one = engineStats().peers.slice(0, 1);
  const page = pageOf(
    { engines: [{ device: "flannel.1", stats: engineStats({ peers: [...one, ...one] }) }] },
    1,
  );
  expect(page.value("flannel_lite_peer_bytes_total", { peer: "192.0.2.2", direction: "sent" })).toBe(1_000);
});

test("metrics: every drop reason has a direction, and few have none of their own", () => {
  const drops = Object.fromEntries([...dropReasons, "newReason"].map((reason) => [reason, 1]));
  const { series } = pageOf({ engines: [{ device: "flannel.1", stats: engineStats({ drops }) }] });
  const of = series.filter(({ name }) => name === "flannel_lite_datapath_drops_total");
  expect(
    of.filter(({ labels }) => labels["direction"] === "any").map(({ labels }) => labels["reason"]),
  ).toEqual(["notIp", "truncated", "ttlExceeded", "tunError", "newReason"]);
  expect(of).toHaveLength(dropReasons.length + 1);
});

test("metrics: with the kernel engine the device's own counters are told", () => {
  const way = { packets: 3, bytes: 300, errors: 1, dropped: 2 };
  const device = { name: "flannel.1", sent: way, received: { ...way, bytes: 400 } };
  const page = pageOf({ engines: [], devices: [device] });
  const labels = { device: "flannel.1", direction: "received" };
  expect(page.value("flannel_lite_datapath_bytes_total", labels)).toBe(400);
  expect(page.value("flannel_lite_datapath_drops_total", { ...labels, reason: "dropped" })).toBe(2);
});

test("metrics: the end of a packet thread and a certificate that cannot be read show", () => {
  const failed = engineStats({ failure: "EIO: read" });
  const certificates = [
    { role: "ca", path: "/ca", expiresAt: null, trouble: "ENOENT", remainingDays: null },
  ] as const;
  const page = pageOf({ engines: [{ device: "flannel.1", stats: failed }], certificates });
  expect(page.value("flannel_lite_datapath_failed", { device: "flannel.1" })).toBe(1);
  expect(page.series.filter(({ name }) => name.includes("certificate"))).toEqual([]);
});

test("exposition: backslash, quote and newline are escaped, and come back as they were", () => {
  const hostile = 'a"b\\c\nd{e="f"} 1\n';
  const text = expositionText("x_", [
    { name: "a", type: "gauge", help: "back\\slash\nnew", samples: [{ labels: { l: hostile }, value: 0.5 }] },
  ]);
  expect(text.split("\n")).toHaveLength(4);
  expect(text).toStartWith(String.raw`# HELP x_a back\\slash\nnew`);
  expect(parseExposition(text).series).toEqual([{ name: "x_a", labels: { l: hostile }, value: 0.5 }]);
});

test("exposition: a value from outside is cut, families without samples are left out, numbers are Prometheus'", () => {
  const text = expositionText("", [
    { name: "none", type: "gauge", help: "h", samples: [] },
    {
      name: "some",
      type: "gauge",
      help: "h",
      samples: [
        { labels: { l: '"'.repeat(1_000) }, value: Number.NaN },
        { labels: { l: "inf" }, value: Number.POSITIVE_INFINITY },
        { labels: { l: "-inf" }, value: Number.NEGATIVE_INFINITY },
        { labels: { l: "big" }, value: 2 ** 80 },
      ],
    },
  ]);
  const { types, series } = parseExposition(text);
  expect([...types.keys()]).toEqual(["some"]);
  expect(series.map(({ value }) => value)).toEqual([
    Number.NaN,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    2 ** 80,
  ]);
  expect(series[0]?.labels["l"]).toHaveLength(256);
});
