import { X509Certificate } from "node:crypto";
import { readFileSync, statSync } from "node:fs";

/** Files of certificates that we depend on; undefined where none is configured. */
export interface CertificateFiles {
  readonly ca: string | undefined;
  readonly client: string | undefined;
  /** Of the embedded store, where this host serves it. */
  readonly server?: string | undefined;
}

/** One of them, as it is on disk now. */
export interface CertificateReport {
  readonly role: "ca" | "client" | "server";
  readonly path: string;
  /** ISO 8601; null where it cannot be read. */
  readonly expiresAt: string | null;
  readonly trouble: string | null;
}

/** Longest file read, as for the connection itself. */
const fileBytesMax = 1024 * 1024;

/** Certificates of one file that are looked at. */
const certificatesMax = 200;

/** Tells when the certificates expire; files are read again once they have changed. Never throws. */
export function openCertificateReader(files: CertificateFiles): (now: Date) => CertificateReport[] {
  const seen = new Map<string, { stamp: string; ends: readonly Date[] }>();
  const endsIn = (path: string): readonly Date[] => {
    const stat = statSync(path);
    if (!stat.isFile() || stat.size > fileBytesMax)
      throw new Error(`not a regular file of at most ${fileBytesMax} bytes`);
    const stamp = `${stat.ino}:${stat.mtimeMs}:${stat.size}`;
    const known = seen.get(path);
    if (known?.stamp === stamp) return known.ends;
    const ends = readEnds(readFileSync(path, "utf8"));
    seen.set(path, { stamp, ends });
    return ends;
  };
  return (now) =>
    (["ca", "client", "server"] as const).flatMap((role): CertificateReport[] => {
      const path = files[role];
      if (path === undefined) return [];
      try {
        const expiresAt = nextEnd(endsIn(path), now).toISOString();
        return [{ role, path, expiresAt, trouble: null }];
      } catch (error) {
        const trouble = error instanceof Error ? error.message : String(error);
        return [{ role, path, expiresAt: null, trouble }];
      }
    });
}

/** A certificate that ends within this time should be renewed now. */
export const certificateWarnDays = 30;

const dayMs = 24 * 60 * 60 * 1000;

/** Whole days until the end, negative after it; null where it is not known. */
export function remainingDays({ expiresAt }: CertificateReport, now: Date): number | null {
  return expiresAt === null ? null : Math.floor((Date.parse(expiresAt) - now.getTime()) / dayMs);
}

/**
 * The end that comes next. A bundle may keep an authority that has ended beside its successor: only where all
 * have ended is the last of them told.
 */
export function nextEnd(ends: readonly Date[], now: Date): Date {
  const sorted = ends.toSorted((a, b) => a.getTime() - b.getTime());
  const end = sorted.find((date) => date > now) ?? sorted.at(-1);
  if (end === undefined) throw new Error("no certificate in it");
  return end;
}

function readEnds(pem: string): Date[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  return blocks.slice(0, certificatesMax).map((block) => {
    try {
      return new X509Certificate(block).validToDate;
    } catch {
      // The parser's own words may quote the file.
      throw new Error("not a PEM certificate");
    }
  });
}
