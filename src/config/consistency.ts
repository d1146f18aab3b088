import type { Config } from "./schema.ts";

/** What is wrong with settings that are right one by one. `originOf` tells where a path's value came from. */
export function inconsistencies(
  { store: { type, etcd, embedded, leaseTtl, renewMargin }, health, metrics }: Config,
  originOf: (path: string) => string,
): readonly string[] {
  const problems: string[] = [];
  const isSet = (path: string) => `${path} (${originOf(path)}) is set`;
  const implied = etcd.certfile !== undefined && etcd.keyfile !== undefined ? "https:" : "http:";
  const schemes = etcd.endpoints.map((endpoint) => /^https?:(?=\/\/)/.exec(endpoint)?.[0] ?? implied);
  if (new Set(schemes).size > 1) {
    problems.push(`store.etcd.endpoints (${originOf("store.etcd.endpoints")}) mixes http and https`);
  }
  if (renewMargin >= leaseTtl) {
    problems.push(
      `store.renew_margin (${originOf("store.renew_margin")}) is ${renewMargin} minutes and must be shorter than ` +
        `store.lease_ttl (${originOf("store.lease_ttl")}), ${leaseTtl} minutes`,
    );
  }
  if (etcd.certfile !== undefined && etcd.keyfile === undefined) {
    problems.push(`${isSet("store.etcd.certfile")} but store.etcd.keyfile is not`);
  }
  if (etcd.keyfile !== undefined && etcd.certfile === undefined) {
    problems.push(`${isSet("store.etcd.keyfile")} but store.etcd.certfile is not`);
  }
  const passwords = (["password", "passwordFile"] as const).filter((key) => etcd[key] !== undefined);
  const passwordPath = passwords[0] === "password" ? "store.etcd.password" : "store.etcd.password_file";
  if (passwords.length > 1) {
    problems.push(`${isSet("store.etcd.password")}, and so is store.etcd.password_file: keep one`);
  }
  if (etcd.username !== undefined && passwords.length === 0) {
    problems.push(`${isSet("store.etcd.username")} but neither password nor password_file is`);
  }
  if (etcd.username === undefined && passwords.length > 0) {
    problems.push(`${isSet(passwordPath)} but store.etcd.username is not`);
  }
  if (type === "embedded" && !embedded.serve) {
    problems.push(
      `store.type (${originOf("store.type")}) is "embedded" but store.embedded.serve is false: set it to true on the one host that keeps the leases, and on all others store.type = "etcd" with that host's address in store.etcd.endpoints`,
    );
  }
  if (health.port > 0 && health.port === metrics.port && !health.ip.equals(metrics.ip)) {
    // Where one of the addresses is every address, the second of the two could not be listened on.
    if ([health.ip, metrics.ip].some(({ value }) => value === 0n)) {
      problems.push(
        `metrics.port (${originOf("metrics.port")}) is health.port, but metrics.ip ${metrics.ip} is not health.ip ${health.ip}: give both one address, or each its port`,
      );
    }
  }
  return problems;
}

/** Warnings for what is set for a store that is not the one in use. */
export function unselected(
  { store, kubernetes }: Config,
  origins: ReadonlyMap<string, string>,
): readonly string[] {
  // The prefix names the network, wherever it is kept, and the daemon is a client of what it serves.
  const ofClients = ["prefix", "cafile", "certfile", "keyfile", "username", "password", "password_file"];
  const isMoot = (path: string) => {
    if (path === "kubernetes.annotate_node") return store.type === "kubernetes" && kubernetes.annotateNode;
    if (path.startsWith("kubernetes."))
      return store.type !== "kubernetes" && (!kubernetes.annotateNode || storeOnly.includes(path));
    if (store.type === "kubernetes" && path.startsWith("store.etcd.")) return path !== "store.etcd.prefix";
    return store.type === "embedded"
      ? path.startsWith("store.etcd.") && !ofClients.some((name) => path === `store.etcd.${name}`)
      : path === "store.embedded.serve"; // the rest is for "store serve" too
  };
  return [...origins]
    .filter(([path, origin]) => isMoot(path) && origin !== "default")
    .map(
      ([path, origin]) => `${path} (${origin}) has no effect: store.type is ${JSON.stringify(store.type)}`,
    );
}

/** What annotating alone has no use for. */
const storeOnly = ["kubernetes.net_config", "kubernetes.set_node_network_unavailable"];
