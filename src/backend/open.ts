import { FlannelError } from "../base/error.ts";
import type { BackendConfig } from "../config/network.ts";
import { setUpAlloc } from "./alloc.ts";
import type { BackendContext, BackendSetup } from "./backend.ts";
import { setUpExtension } from "./extension.ts";
import { setUpHostGw } from "./host-gw.ts";
import { setUpIpIp } from "./ipip.ts";
import { setUpUdp } from "./udp.ts";
import { setUpVxlan } from "./vxlan.ts";

/**
 * The one switch on the backend type.
 * @throws FlannelError `network/backend` (exit code 2 where the type cannot be served), `network/mtu`,
 * `uplink/nat`, `uplink/no-address`
 */
export function setUpBackend(config: BackendConfig, context: BackendContext): BackendSetup {
  switch (config.type) {
    case "vxlan":
      return setUpVxlan(config, context);
    case "host-gw":
      return setUpHostGw(context);
    case "udp":
      return setUpUdp(config, context);
    case "ipip":
      return setUpIpIp(config, context);
    case "alloc":
      return setUpAlloc(context);
    case "extension":
      return setUpExtension(config, context);
    default:
      throw notServed(config.type);
  }
}

const anyNetwork = 'Put "Backend": {"Type": "vxlan"} into the network configuration';
const encrypted = `flannel-lite does not encrypt: ${anyNetwork} and encrypt between the hosts, or stay with flanneld`;
const cloud = `flannel-lite fills no cloud's route table: ${anyNetwork}, which needs none`;

/** flannel's other backends, and what an operator who names one can do. */
const remedies: Readonly<Record<string, string>> = {
  wireguard: encrypted,
  ipsec: encrypted,
  "tencent-vpc": cloud,
  "ali-vpc": cloud,
  "aws-vpc": cloud,
  gce: cloud,
};

function notServed(type: string): FlannelError {
  const remedy = Object.hasOwn(remedies, type) ? remedies[type] : undefined;
  return new FlannelError(
    "network/backend",
    remedy === undefined
      ? `unknown backend type: ${type.slice(0, 64)}`
      : `backend type ${type} is not served yet`,
    {},
    { exitCode: 2, remedy: remedy ?? anyNetwork },
  );
}
