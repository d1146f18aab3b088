import { expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { openAddon } from "../../../../src/native/addon.ts";
import {
  certificatePaths,
  initCertificates,
  renewCertificates,
} from "../../../../src/store/embedded/certificates.ts";

const dayMs = 24 * 60 * 60 * 1000;
const now = new Date();
const hosts = [["store.example", "192.0.2.10", "2001:db8::10"], ["192.0.2.11"], ["2001:db8::12"]];
const addon = openAddon();

function inDirectory(work: (dataDir: string) => void): void {
  const directory = mkdtempSync(join(tmpdir(), "fl-init-"));
  try {
    work(join(directory, "store"));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function openssl(...args: string[]): string {
  const { stdout, stderr, exitCode } = Bun.spawnSync(["openssl", ...args]);
  return exitCode === 0 ? stdout.toString() : `failed: ${stderr.toString()}`;
}

const verify = (ca: string, purpose: string, cert: string) =>
  openssl("verify", "-CAfile", ca, "-x509_strict", "-purpose", purpose, cert);

test("store init: openssl believes each certificate for what it is for, and for nothing else", () => {
  inDirectory((dataDir) => {
    initCertificates(addon, { dataDir, hosts, now });
    const { ca, server, admin, member } = certificatePaths(dataDir);
    expect(verify(ca, "sslserver", server.cert)).toBe(`${server.cert}: OK\n`);
    expect(verify(ca, "sslclient", server.cert)).toContain("failed");
    for (const { cert } of [admin, ...hosts.map(([name = ""]) => member(name))]) {
      expect(verify(ca, "sslclient", cert)).toBe(`${cert}: OK\n`);
      expect(verify(ca, "sslserver", cert)).toContain("failed");
    }
    for (const name of ["store.example", "localhost"])
      expect(openssl("x509", "-in", server.cert, "-noout", "-checkhost", name)).toContain("does match");
    for (const ip of ["192.0.2.10", "2001:db8::10", "127.0.0.1", "::1"])
      expect(openssl("x509", "-in", server.cert, "-noout", "-checkip", ip)).toContain("does match");
    expect(openssl("x509", "-in", server.cert, "-noout", "-checkip", "192.0.2.11")).toContain("NOT match");
    expect(openssl("x509", "-in", admin.cert, "-noout", "-subject")).toMatch(/O = flannel-lite:admin/);
    const days = (path: string) =>
      Math.round((new X509Certificate(readFileSync(path)).validToDate.getTime() - now.getTime()) / dayMs);
    expect([days(ca), days(server.cert), days(admin.cert)]).toEqual([3650, 365, 365]);
  });
});

test("store init: keys are their owner's only, the authority's apart from the rest", () => {
  inDirectory((dataDir) => {
    initCertificates(addon, { dataDir, hosts, now });
    const { ca, caKey, server, admin, member } = certificatePaths(dataDir);
    const mode = (path: string) => statSync(path).mode & 0o777;
    for (const { key } of [{ key: caKey }, server, admin, member("192.0.2.11")])
      expect(mode(key)).toBe(0o600);
    for (const directory of [dataDir, dirname(caKey), dirname(ca)]) expect(mode(directory)).toBe(0o700);
    expect(dirname(caKey)).not.toBe(dirname(ca));
  });
});

test("store init: nothing that is there is written to, and what is missing is made", () => {
  inDirectory((dataDir) => {
    const paths = certificatePaths(dataDir);
    const written = initCertificates(addon, { dataDir, hosts: hosts.slice(0, 2), now });
    const before = new Map(written.map((path) => [path, readFileSync(path, "utf8")]));
    expect(initCertificates(addon, { dataDir, hosts: hosts.slice(0, 2), now })).toEqual([]);
    const third = paths.member("2001:db8::12");
    expect(initCertificates(addon, { dataDir, hosts, now })).toEqual([third.cert, third.key]);
    expect(verify(paths.ca, "sslclient", third.cert)).toContain("OK");
    for (const [path, content] of before) expect(readFileSync(path, "utf8")).toBe(content);

    rmSync(paths.admin.key); // half of a pair is no reason to replace the other half
    expect(() => initCertificates(addon, { dataDir, hosts, now })).toThrow(/go together/);
    expect(existsSync(paths.admin.key)).toBe(false);
    rmSync(paths.ca);
    expect(() => initCertificates(addon, { dataDir, hosts, now })).toThrow();
    expect(existsSync(paths.ca)).toBe(false);
  });
});

test("store certs renew: same names, new keys, a new year, the same authority; its key may have been moved", () => {
  inDirectory((dataDir) => {
    initCertificates(addon, { dataDir, hosts, now });
    const { ca, caKey, server, admin, member } = certificatePaths(dataDir);
    const later = new Date(now.getTime() + 300 * dayMs);
    const shown = (cert: string) => {
      const { subject, subjectAltName } = new X509Certificate(readFileSync(cert));
      return `${subject} ${subjectAltName}`;
    };
    const certs = [server.cert, admin.cert, ...hosts.map(([name = ""]) => member(name).cert)];
    const [names, keys, authority] = [
      certs.map(shown),
      readFileSync(server.key, "utf8"),
      readFileSync(ca, "utf8"),
    ];

    const moved = join(dirname(dataDir), "elsewhere", "ca.key");
    mkdirSync(dirname(moved));
    renameSync(caKey, moved);
    expect(() => renewCertificates(addon, { dataDir, now: later })).toThrow(/key is not here/);
    expect(renewCertificates(addon, { dataDir, now: later, caKey: moved }).sort()).toEqual(certs.toSorted());
    expect(certs.map(shown)).toEqual(names);
    expect(readFileSync(server.key, "utf8")).not.toBe(keys);
    expect(readFileSync(ca, "utf8")).toBe(authority);
    const { validToDate } = new X509Certificate(readFileSync(server.cert));
    expect(Math.round((validToDate.getTime() - later.getTime()) / dayMs)).toBe(365);
    const at = String(Math.floor(later.getTime() / 1000) + 60);
    expect(openssl("verify", "-attime", at, "-CAfile", ca, server.cert)).toContain("OK");

    // None outlives its authority.
    const last = new Date(now.getTime() + 3_600 * dayMs);
    renewCertificates(addon, { dataDir, now: last, caKey: moved });
    const [own, its] = [server.cert, ca].map((path) => new X509Certificate(readFileSync(path)).validTo);
    expect(own).toBe(its as string);
    const after = new Date(now.getTime() + 3_651 * dayMs);
    expect(() => renewCertificates(addon, { dataDir, now: after, caKey: moved })).toThrow(/expired/);
  });
});

test("store certs renew: another authority's key is refused and nothing is written", () => {
  inDirectory((dataDir) => {
    initCertificates(addon, { dataDir, hosts, now });
    const other = join(dataDir, "other");
    initCertificates(addon, { dataDir: other, hosts, now });
    const { server } = certificatePaths(dataDir);
    const before = readFileSync(server.cert, "utf8");
    const caKey = certificatePaths(other).caKey;
    expect(() => renewCertificates(addon, { dataDir, now, caKey })).toThrow(/does not belong/);
    expect(readFileSync(server.cert, "utf8")).toBe(before);
  });
});
