import { afterAll, expect, test } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { nextEnd, openCertificateReader } from "../../../src/status/certificates.ts";
import { statusText } from "../../../src/status/report.ts";
import { openCertificates } from "../../support/certificates.ts";
import { statusReport } from "../../support/status-report.ts";

const made = openCertificates();
afterAll(() => made[Symbol.dispose]());
const day = 24 * 60 * 60 * 1000;

test("certificates: the end of both files, read again once they change, and what is wrong with them", () => {
  const ca = made.authority("ca");
  const { cert } = made.issue("client", { by: "ca", names: "DNS:localhost", days: 5 });
  const read = openCertificateReader({ ca, client: cert });
  const days = () =>
    read(new Date()).map(({ role, expiresAt }) => [
      role,
      expiresAt && Math.round((Date.parse(expiresAt) - Date.now()) / day),
    ]);
  expect(days()).toEqual([
    ["ca", 2],
    ["client", 5],
  ]);
  made.issue("client", { by: "ca", names: "DNS:localhost", days: 40 });
  expect(days()).toEqual([
    ["ca", 2],
    ["client", 40],
  ]);
  rmSync(cert);
  expect(read(new Date())[1]).toMatchObject({ expiresAt: null, trouble: expect.stringContaining("ENOENT") });
  const path = join(made.directory, "odd.pem");
  const trouble = (content: string) => {
    writeFileSync(path, content);
    return openCertificateReader({ ca: path, client: undefined })(new Date())[0]?.trouble;
  };
  expect(trouble("")).toBe("no certificate in it");
  expect(trouble(readFileSync(join(made.directory, "ca.key"), "utf8"))).toBe("no certificate in it");
  expect(trouble("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).toBe(
    "not a PEM certificate",
  );
  expect(openCertificateReader({ ca: "/dev/zero", client: undefined })(new Date())[0]?.trouble).toContain(
    "not a regular file",
  );
  expect(openCertificateReader({ ca: undefined, client: undefined })(new Date())).toEqual([]);
  const own = made.issue("server", { by: "ca", days: 9 });
  const serving = openCertificateReader({ ca: undefined, client: undefined, server: own.cert });
  expect(serving(new Date())).toMatchObject([{ role: "server", path: own.cert, trouble: null }]);
});

test("certificates: of a bundle the next end counts, one that has ended beside its successor does not", () => {
  const at = (text: string) => new Date(text);
  const ends = [at("2027-01-01"), at("2025-01-01"), at("2030-01-01")];
  expect(nextEnd(ends, at("2026-01-01"))).toEqual(at("2027-01-01"));
  expect(nextEnd(ends, at("2031-01-01"))).toEqual(at("2030-01-01"));
});

test("certificates: status says when to renew", () => {
  const line = (remainingDays: number | null, trouble: string | null = null) => {
    const expiresAt = remainingDays === null ? null : "2026-02-01T00:00:00.000Z";
    const certificate = { role: "client", path: "/c.pem", expiresAt, trouble, remainingDays } as const;
    const text = statusText(statusReport({ certificates: [certificate] }));
    return text.split("\n").find((one) => one.startsWith("tls "));
  };
  expect(line(30)).toBe("tls        client certificate /c.pem expires 2026-02-01T00:00:00.000Z (in 30 days)");
  expect(line(29)).toBe(
    "tls        client certificate /c.pem expires 2026-02-01T00:00:00.000Z (in 29 days): renew it",
  );
  expect(line(-1)).toBe("tls        client certificate /c.pem EXPIRED 2026-02-01T00:00:00.000Z: renew it");
  expect(line(null, "ENOENT")).toBe("tls        client certificate /c.pem: trouble: ENOENT");
});
