import { join, resolve } from "node:path";
import { openAddon } from "../native/addon.ts";
import { tryParseListenAddress } from "../net/listen-address.ts";
import { tryParseIpAddress } from "../net/address.ts";
import {
  certificatePaths,
  type HostNames,
  hostsMax,
  initCertificates,
  renewCertificates,
} from "../store/embedded/certificates.ts";
import { type CommandInput, isJson, usage } from "./command.ts";
import { dataDirOf } from "./store-data-dir.ts";

/** Makes what is missing of the store's certificates, and says what each host's configuration needs. */
export function storeInit(input: CommandInput, moreHosts: readonly string[]): string {
  const { commandFlags, config } = input.loaded;
  const texts = [...(commandFlags.get("host")?.split("\n") ?? []), ...moreHosts];
  const hosts = texts.map(parseHost);
  const [server] = hosts;
  if (server === undefined)
    throw usage("store init takes -host with the names and addresses of the host that serves");
  if (hosts.length > hostsMax) throw usage(`more than ${hostsMax} hosts`);
  const twice = hosts.find(([name], at) => hosts.findIndex(([other]) => other === name) !== at);
  if (twice !== undefined) throw usage(`the host ${JSON.stringify(twice[0])} is named twice`);
  const dataDir = resolve(dataDirOf(input));
  const written = initCertificates(openAddon(), { dataDir, hosts, now: new Date(), ...caKeyOf(input) });
  if (isJson(input.loaded)) return `${JSON.stringify({ written })}\n`;
  const { port } = tryParseListenAddress(config.store.embedded.listen) ?? { port: 2379 };
  return [
    ...written.map((path) => `wrote ${path}`),
    ...(written.length === 0 ? ["# everything is there already, nothing was written"] : []),
    "",
    ...adviceLines(dataDir, endpointOf(server, port)),
    ...hosts.flatMap((names, at) => hostLines({ dataDir, names, server, port, serves: at === 0 })),
    "",
  ].join("\n");
}

/** Issues every certificate anew. */
export function storeRenew(input: CommandInput): string {
  const dataDir = resolve(dataDirOf(input));
  const renewed = renewCertificates(openAddon(), { dataDir, now: new Date(), ...caKeyOf(input) });
  if (isJson(input.loaded)) return `${JSON.stringify({ renewed })}\n`;
  return [
    ...renewed.map((path) => `renewed ${path}`),
    "# the running store reads its own by itself; copy the members' to their hosts, which read them by themselves too",
    "",
  ].join("\n");
}

function caKeyOf({ loaded }: CommandInput): { caKey?: string } {
  const caKey = loaded.commandFlags.get("ca-key");
  return caKey === undefined ? {} : { caKey };
}

/** @throws FlannelError `config/invalid` */
function parseHost(text: string): HostNames {
  const names = text.split(",").map((name) => tryParseIpAddress(name)?.toString() ?? name.toLowerCase());
  const wrong = names.find((name) => tryParseIpAddress(name) === undefined && !isHostName(name));
  if (wrong !== undefined)
    throw usage(`-host: ${JSON.stringify(wrong)} is neither an IP address nor a host name`);
  return names;
}

function isHostName(name: string): boolean {
  return (
    name.length <= 253 && /^[a-z0-9]([a-z0-9-]{0,62}\.)*[a-z0-9-]{1,63}$/.test(name) && !/^[\d.]+$/.test(name)
  );
}

function endpointOf([at = ""]: HostNames, port: number): string {
  return `https://${isIpv6(at) ? `[${at}]` : at}:${port}`;
}

function adviceLines(dataDir: string, endpoint: string): string[] {
  const { ca, caKey, admin } = certificatePaths(dataDir);
  return [
    `# ${caKey} makes certificates that the store believes, for 10 years. Move it off this`,
    "# host; store init (for more hosts) and store certs renew (once a year) take it from -ca-key.",
    `# ${admin.cert} and its key may change everything; members may write only leases.`,
    "# So the network's configuration, which [network] of a member cannot publish, is written by hand, once the store runs:",
    `#   flannel-lite network set net-conf.json -store-type etcd -etcd-endpoints ${endpoint} \\`,
    `#     -etcd-cafile ${ca} -etcd-certfile ${admin.cert} -etcd-keyfile ${admin.key}`,
  ];
}

interface HostConfig {
  readonly dataDir: string;
  readonly names: HostNames;
  readonly server: HostNames;
  readonly port: number;
  readonly serves: boolean;
}

/** Where members keep their files; what store init made is copied there. */
const memberDirectory = "/etc/flannel/store";

function hostLines({ dataDir, names, server, port, serves }: HostConfig): string[] {
  const paths = certificatePaths(dataDir);
  const name = names[0] ?? "";
  const member = paths.member(name);
  const own = (file: string) => join(memberDirectory, file);
  const [ca, cert, key] = serves
    ? [paths.ca, member.cert, member.key]
    : [own("ca.crt"), own("member.crt"), own("member.key")];
  const client = [`cafile = "${ca}"`, `certfile = "${cert}"`, `keyfile = "${key}"`];
  if (serves) {
    return [
      "",
      `# --- ${name}, which serves: /etc/flannel/config.toml`,
      "[store]",
      'type = "embedded"',
      "[store.embedded]",
      "serve = true",
      `listen = "${server.some(isIpv6) && !server.some(isIpv4) ? "[::]" : "0.0.0.0"}:${port}"`,
      `data_dir = "${dataDir}"`,
      `certfile = "${paths.server.cert}"`,
      `keyfile = "${paths.server.key}"`,
      `client_cafile = "${paths.ca}"`,
      "[store.etcd]",
      ...client,
    ];
  }
  return [
    "",
    `# --- ${name}: copy, as root with mode 0600, ${paths.ca} to ${ca},`,
    `# ${member.cert} to ${cert} and ${member.key} to ${key}`,
    "[store.etcd]",
    `endpoints = ["${endpointOf(server, port)}"]`,
    ...client,
  ];
}

function isIpv6(name: string): boolean {
  return tryParseIpAddress(name)?.family === 6;
}

function isIpv4(name: string): boolean {
  return tryParseIpAddress(name)?.family === 4;
}
