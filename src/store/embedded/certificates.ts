import { createPrivateKey, randomBytes, X509Certificate } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { writeFileAtomic } from "../../base/atomic-file.ts";
import { FlannelError } from "../../base/error.ts";
import { roleOrganizations } from "./identity.ts";

/** What signs: the native addon. */
export interface CertificateIssuer {
  issueAuthority(commonName: string, notBefore: number, notAfter: number): Issued;
  issueCertificate(authorityName: string, authorityKey: string, request: IssueRequest): Issued;
}

interface Issued {
  readonly certificate: string;
  readonly key: string;
}

interface IssueRequest {
  readonly commonName: string;
  readonly organization: string;
  readonly names: readonly string[];
  readonly server: boolean;
  readonly client: boolean;
  readonly notBefore: number;
  readonly notAfter: number;
}

/** Where a small authority keeps its files below a data directory. */
export interface CertificatePaths {
  readonly directory: string;
  readonly ca: string;
  /** Apart from the rest, so that it can be moved away as it is. */
  readonly caKey: string;
  readonly server: KeyPairPaths;
  readonly admin: KeyPairPaths;
  member(host: string): KeyPairPaths;
}

export interface KeyPairPaths {
  readonly cert: string;
  readonly key: string;
}

/** Names of what {@link certificatePaths} puts into a data directory. */
export const certificateEntries = ["certs", "authority"] as const;

/** Hosts that one call certifies. */
export const hostsMax = 1_000;

const authorityDays = 3_650;
const certificateDays = 365;
const daySeconds = 24 * 60 * 60;
/** Hosts whose clocks are behind must not find a new certificate to be of the future. */
const skewSeconds = 300;

export function certificatePaths(dataDir: string): CertificatePaths {
  const directory = join(dataDir, certificateEntries[0]);
  const pair = (name: string) => ({
    cert: join(directory, `${name}.crt`),
    key: join(directory, `${name}.key`),
  });
  return {
    directory,
    ca: join(directory, "ca.crt"),
    caKey: join(dataDir, certificateEntries[1], "ca.key"),
    server: pair("server"),
    admin: pair("admin"),
    // An IPv6 address has colons, which some file systems and copying tools take amiss.
    member: (host) => pair(`members/${host.replaceAll(":", "_")}`),
  };
}

/** A host by every name it answers under; the first is what we call it. */
export type HostNames = readonly string[];

export interface InitRequest {
  readonly dataDir: string;
  /** The first one serves. */
  readonly hosts: readonly HostNames[];
  readonly now: Date;
  /** Where the authority's key is, if it was moved. */
  readonly caKey?: string;
}

/**
 * Makes what is missing of an authority, a server's, an administrator's and each host's certificate. Nothing
 * that is there is written to.
 * @returns the paths written
 * @throws FlannelError `store/certificates` where what is there does not let it, and then nothing is written
 */
export function initCertificates(issuer: CertificateIssuer, request: InitRequest): string[] {
  const { dataDir, hosts, now } = request;
  const paths = certificatePaths(dataDir);
  const caKeyPath = request.caKey ?? paths.caKey;
  const wanted = [
    { pair: paths.server, subject: serverSubject(hosts[0] ?? []) },
    { pair: paths.admin, subject: adminSubject },
    ...hosts.map((names) => ({ pair: paths.member(names[0] ?? ""), subject: memberSubject(names[0] ?? "") })),
  ];
  for (const { pair } of wanted) {
    if (existsSync(pair.cert) !== existsSync(pair.key)) {
      throw refused("a certificate and its key go together, and one of them is missing", pair.cert);
    }
  }
  const missing = wanted.filter(({ pair }) => !existsSync(pair.cert));
  const isNew = !existsSync(paths.ca);
  if (isNew && existsSync(caKeyPath))
    throw refused("there is an authority's key without its certificate", caKeyPath);
  if (isNew && missing.length < wanted.length) {
    throw refused("there are certificates of another authority", paths.directory);
  }
  if (!isNew && missing.length === 0) return [];
  const authority = isNew ? newAuthority(issuer, now) : readAuthority(paths.ca, caKeyPath);
  const issued = missing.map(({ pair, subject }) => ({
    pair,
    ...issueFor(issuer, authority, { subject, now }),
  }));
  if (isNew) {
    writePrivate(caKeyPath, authority.key);
    writePublic(paths.ca, authority.certificate);
  }
  for (const { pair, key, certificate } of issued) writePair(pair, { key, certificate });
  const own = isNew ? [paths.ca, caKeyPath] : [];
  return [...own, ...missing.flatMap(({ pair }) => [pair.cert, pair.key])];
}

/**
 * Issues every certificate of a data directory anew, each with its names and a new key; the authority stays.
 * @returns the certificates' paths
 * @throws FlannelError `store/certificates`; then nothing was written
 */
export function renewCertificates(
  issuer: CertificateIssuer,
  { dataDir, now, caKey }: Omit<InitRequest, "hosts">,
): string[] {
  const paths = certificatePaths(dataDir);
  const authority = readAuthority(paths.ca, caKey ?? paths.caKey);
  const issued = presentPairs(paths).map((pair) => ({
    pair,
    ...issueFor(issuer, authority, { subject: subjectOf(pair.cert), now }),
  }));
  if (issued.length === 0) throw refused("there is no certificate to renew", paths.directory);
  for (const { pair, key, certificate } of issued) writePair(pair, { key, certificate });
  return issued.map(({ pair }) => pair.cert);
}

interface Authority {
  readonly name: string;
  readonly key: string;
  readonly certificate: string;
}

interface Subject {
  readonly commonName: string;
  readonly organization: string;
  readonly names: readonly string[];
  readonly server: boolean;
  readonly client: boolean;
}

function serverSubject(names: HostNames): Subject {
  // On its own host the service is reached by these too.
  const all = [...new Set([...names, "127.0.0.1", "::1", "localhost"])];
  return { commonName: names[0] ?? "", organization: "", names: all, server: true, client: false };
}

const adminSubject: Subject = {
  commonName: "admin",
  organization: roleOrganizations.admin,
  names: [],
  server: false,
  client: true,
};

function memberSubject(host: string): Subject {
  return { ...adminSubject, commonName: host, organization: roleOrganizations.member };
}

/** What a certificate of ours was issued for. */
function subjectOf(path: string): Subject {
  const certificate = parseCertificate(path);
  const { CN, O } = certificate.toLegacyObject().subject as { CN?: unknown; O?: unknown };
  if (typeof CN !== "string") throw refused("this is no certificate of ours", path);
  const names = (certificate.subjectAltName ?? "")
    .split(", ")
    .map((name) => name.replace(/^(?:DNS|IP Address):/, ""))
    .filter((name) => name !== "");
  const server = names.length > 0;
  return { commonName: CN, organization: typeof O === "string" ? O : "", names, server, client: !server };
}

function newAuthority(issuer: CertificateIssuer, now: Date): Authority {
  // Two authorities of one name would be taken for each other.
  const name = `flannel-lite store ${randomBytes(4).toString("hex")}`;
  const seconds = secondsOf(now);
  return {
    name,
    ...issuer.issueAuthority(name, seconds - skewSeconds, seconds + authorityDays * daySeconds),
  };
}

function readAuthority(caPath: string, keyPath: string): Authority {
  const certificate = parseCertificate(caPath);
  const [, name] = /^CN=([^\n]+)$/.exec(certificate.subject) ?? [];
  if (name === undefined || !certificate.ca)
    throw refused("this is no authority that store init made", caPath);
  if (!existsSync(keyPath)) {
    throw refused(
      "the authority's key is not here",
      keyPath,
      "Name the place it was moved to with -ca-key, or bring it back for the moment.",
    );
  }
  const key = readSmall(keyPath);
  let belongs = false;
  try {
    belongs = certificate.checkPrivateKey(createPrivateKey(key));
  } catch {
    // Its words may quote the key.
  }
  if (!belongs) throw refused("the authority's key does not belong to its certificate", keyPath);
  return { name, key, certificate: certificate.toString() };
}

function issueFor(
  issuer: CertificateIssuer,
  authority: Authority,
  { subject, now }: { subject: Subject; now: Date },
): Issued {
  const seconds = secondsOf(now);
  const end = secondsOf(new X509Certificate(authority.certificate).validToDate);
  if (end <= seconds)
    throw refused("the authority has expired: begin anew with another data directory", authority.name);
  const notAfter = Math.min(seconds + certificateDays * daySeconds, end);
  return issuer.issueCertificate(authority.name, authority.key, {
    ...subject,
    notBefore: seconds - skewSeconds,
    notAfter,
  });
}

function presentPairs(paths: CertificatePaths): KeyPairPaths[] {
  const members = join(paths.directory, "members");
  const hosts = existsSync(members)
    ? readdirSync(members)
        .filter((name) => name.endsWith(".crt"))
        .map((name) => paths.member(name.slice(0, -".crt".length)))
    : [];
  return [paths.server, paths.admin, ...hosts].filter(({ cert }) => existsSync(cert));
}

/** The key first: a reader in between finds two that do not fit, and keeps what it has. */
function writePair(pair: KeyPairPaths, { key, certificate }: Issued): void {
  writePrivate(pair.key, key);
  writePublic(pair.cert, certificate);
}

function writePrivate(path: string, content: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  guarded(path, () => writeFileAtomic(path, content, { mode: 0o600, directoryMode: 0o700 }));
}

function writePublic(path: string, content: string): void {
  guarded(path, () => writeFileAtomic(path, content, { mode: 0o644, directoryMode: 0o700 }));
}

function parseCertificate(path: string): X509Certificate {
  const pem = readSmall(path);
  try {
    return new X509Certificate(pem);
  } catch {
    throw refused("this is no certificate", path);
  }
}

function readSmall(path: string): string {
  return guarded(path, () => readFileSync(path, "utf8"));
}

function guarded<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : String(cause);
    throw refused(`the file cannot be used: ${code}`, path);
  }
}

function secondsOf(date: Date): number {
  return Math.floor(date.getTime() / 1000);
}

function refused(message: string, path: string, remedy?: string): FlannelError {
  return new FlannelError("store/certificates", message, { path }, remedy === undefined ? {} : { remedy });
}
