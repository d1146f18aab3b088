import { FlannelError } from "../base/error.ts";
import type { BackendConfig } from "../config/network.ts";
import type { BackendSetup } from "./backend.ts";
import { type BackendContext, setUpVxlan } from "./vxlan.ts";

/** flannel's other backends; what an operator who names one must know. */
const notYet = ["udp", "host-gw", "ipip", "alloc", "extension", "wireguard", "ipsec", "tencent-vpc"];

/**
 * The one switch on the backend type.
 * @throws FlannelError `network/backend` (exit code 2 where the type cannot be served)
 */
export function setUpBackend(config: BackendConfig, context: BackendContext): BackendSetup {
  if (config.type === "vxlan") return setUpVxlan(config, context);
  const known = notYet.includes(config.type);
  throw new FlannelError(
    "network/backend",
    known ? `backend type ${config.type} is not served yet` : `unknown backend type: ${config.type}`,
    {},
    {
      exitCode: 2,
      remedy:
        'Put "Backend": {"Type": "vxlan"} into the network configuration (without a Backend, flannel means udp)',
    },
  );
}
