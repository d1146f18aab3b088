import { afterEach, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import {
  parseSubnetEnv,
  readSubnetEnv,
  removeOwnSubnetEnv,
  subnetEnvText,
  writeSubnetEnv,
} from "../../../src/host/subnet-env.ts";
import { parseIpAddress } from "../../../src/net/address.ts";
import { parsePrefix } from "../../../src/net/prefix.ts";

const directory = mkdtempSync("/tmp/fl-test-");
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function range(network: string) {
  const zero = parseIpAddress("0.0.0.0");
  return { network: parsePrefix(network), subnetLength: 24, subnetMin: zero, subnetMax: zero };
}
const ipv4 = { network: { ipv4: range("10.42.0.0/16") }, subnets: { ipv4: parsePrefix("10.42.0.0/24") } };
const ipv6 = {
  network: { ipv6: range("2001:cafe:42::/56") },
  subnets: { ipv6: parsePrefix("2001:cafe:42::/64") },
};
const common = { mtuBytes: 1450, ipMasq: true };

test("subnet.env: flannel's bytes for IPv4, IPv6 and both", () => {
  const four = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\n";
  const six = "FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42::1/64\n";
  const rest = "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
  const both = {
    network: { ...ipv4.network, ...ipv6.network },
    subnets: { ...ipv4.subnets, ...ipv6.subnets },
  };
  expect(subnetEnvText({ ...ipv4, ...common })).toBe(four + rest);
  expect(subnetEnvText({ ...ipv6, ...common })).toBe(six + rest);
  expect(subnetEnvText({ ...both, ...common })).toBe(four + six + rest);
});

test("subnet.env: what was written is read back as the subnet", () => {
  const { subnets } = ipv4;
  expect(parseSubnetEnv(subnetEnvText({ ...ipv4, ...common }))).toEqual(subnets);
  expect(parseSubnetEnv(subnetEnvText({ ...ipv6, ...common }))).toEqual(ipv6.subnets);
});

test("subnet.env: quotes, export, comments and CRLF are read; anything but one CIDR is absent", () => {
  expect(parseSubnetEnv('# x\r\nexport FLANNEL_SUBNET="10.5.52.1/24"\r\n')).toEqual({
    ipv4: parsePrefix("10.5.52.0/24"),
  });
  expect(parseSubnetEnv("FLANNEL_SUBNET=10.244.1.0/24,not-a-cidr\n")).toEqual({
    ipv4: parsePrefix("10.244.1.0/24"),
  });
  for (const text of [
    "",
    "FLANNEL_SUBNET=\n",
    "FLANNEL_SUBNET=nonsense\n",
    "FLANNEL_SUBNET=10.1.0.0/24,10.2.0.0/24\n",
    "\0\0",
  ]) {
    expect(parseSubnetEnv(text)).toEqual({});
  }
  expect(readSubnetEnv(join(directory, "absent"))).toEqual({});
});

test("subnet.env: written atomically with mode 0644 whatever the umask; an existing file keeps its mode", () => {
  mkdirSync(directory, { recursive: true });
  const subnetFile = join(directory, "run/flannel/subnet.env");
  const paths = { subnetFile, stateDir: join(directory, "state") };
  const umask = process.umask(0o077);
  try {
    writeSubnetEnv(paths, { ...ipv4, ...common });
    expect(statSync(subnetFile).mode & 0o777).toBe(0o644);
    chmodSync(subnetFile, 0o600);
    writeSubnetEnv(paths, { ...ipv4, ...common, ipMasq: false });
    expect(statSync(subnetFile).mode & 0o777).toBe(0o600);
  } finally {
    process.umask(umask);
  }
  expect(readFileSync(subnetFile, "utf8")).toEndWith("FLANNEL_IPMASQ=false\n");
  expect(readdirSync(join(directory, "run/flannel"))).toEqual(["subnet.env"]);
});

test("subnet.env: ours is removed, one that another program wrote since is not", () => {
  mkdirSync(directory, { recursive: true });
  const paths = { subnetFile: join(directory, "subnet.env"), stateDir: join(directory, "state") };
  writeSubnetEnv(paths, { ...ipv4, ...common });
  expect(removeOwnSubnetEnv(paths)).toBe(true);
  expect(removeOwnSubnetEnv(paths)).toBe(false);
  writeSubnetEnv(paths, { ...ipv4, ...common });
  writeFileSync(paths.subnetFile, "FLANNEL_SUBNET=10.9.9.1/24\n");
  expect(removeOwnSubnetEnv(paths)).toBe(false);
  expect(readFileSync(paths.subnetFile, "utf8")).toBe("FLANNEL_SUBNET=10.9.9.1/24\n");
});

test("subnet.env: a directory that cannot be written is named with the remedy", () => {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "file"), "");
  const paths = { subnetFile: join(directory, "file/subnet.env"), stateDir: join(directory, "state") };
  expect(() => writeSubnetEnv(paths, { ...ipv4, ...common })).toThrow(`cannot write ${paths.subnetFile}`);
});
