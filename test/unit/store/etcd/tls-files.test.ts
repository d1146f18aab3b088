import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../../../src/base/clock.ts";
import { openTlsSource } from "../../../../src/store/etcd/tls-files.ts";
import { type Certificates, openCertificates } from "../../../support/certificates.ts";
import { recordingLog } from "../../../support/recording-log.ts";

let certificates: Certificates;

beforeAll(() => {
  certificates = openCertificates();
  certificates.authority("ca");
});

afterAll(() => certificates?.[Symbol.dispose]());

test("etcd TLS files: a half-done or broken replacement keeps the last good set, said once", async () => {
  const old = certificates.issue("old", { by: "ca", names: "DNS:node" });
  const fresh = certificates.issue("fresh", { by: "ca", names: "DNS:node" });
  const certFile = join(certificates.directory, "in-use.crt");
  const keyFile = join(certificates.directory, "in-use.key");
  const log = recordingLog();
  copyFileSync(old.cert, certFile);
  copyFileSync(old.key, keyFile);
  const source = openTlsSource({ certFile, keyFile }, log, systemClock);
  const before = await source.current();
  expect(before).toEqual({ cert: readFileSync(old.cert, "utf8"), key: readFileSync(old.key, "utf8") });

  copyFileSync(fresh.cert, certFile);
  expect(await source.current()).toEqual(before);
  expect(await source.current()).toEqual(before);
  expect(log.messages.length).toBe(1);

  copyFileSync(fresh.key, keyFile);
  expect(await source.current()).toEqual({
    cert: readFileSync(fresh.cert, "utf8"),
    key: readFileSync(fresh.key, "utf8"),
  });

  rmSync(keyFile);
  expect((await source.current()).key).toBe(readFileSync(fresh.key, "utf8"));
  expect(log.messages.length).toBe(2);
});

test("etcd TLS files: a client certificate that has expired is said once, and used all the same", async () => {
  const { cert, key } = certificates.issue("short", { by: "ca", names: "DNS:node", days: 1 });
  const log = recordingLog();
  const files = { certFile: cert, keyFile: key };
  const inTime = openTlsSource(files, log, systemClock);
  await inTime.current();
  expect(log.messages).toEqual([]);
  const now = () => new Date(systemClock.now().getTime() + 2 * 24 * 60 * 60 * 1_000);
  const late = openTlsSource(files, log, { ...systemClock, now });
  for (let round = 0; round < 3; round++) {
    expect((await late.current()).cert).toBe(readFileSync(cert, "utf8"));
  }
  expect(log.messages).toEqual(["our client certificate for etcd has expired"]);
  expect(log.lines.join()).toContain(cert);
});

test("etcd: two that ask at the same time get the same set, so that neither's connection is replaced by the other's", async () => {
  using certificates = openCertificates();
  const caFile = certificates.authority("ca");
  const source = openTlsSource({ caFile }, recordingLog(), systemClock);
  const [one, other] = await Promise.all([source.current(), source.current()]);
  expect(one === other).toBe(true);
});
