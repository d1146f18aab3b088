import { FlannelError } from "../../base/error.ts";
import type { LeaseAttributes } from "../../lease/lease.ts";
import type { IpAddress } from "../../net/address.ts";
import { type AnnotationNames, overwritten } from "./codec.ts";
import type { KubeNode } from "./node.ts";

/** Knows our own addresses below those that annotations put in their place, so that a removed one is undone. */
export interface Published {
  /**
   * What our node is to publish for `attributes`, in which addresses put there earlier are ours again.
   * @throws FlannelError `lease/annotation` (retryable) for an overwrite that is no address
   */
  wanted(attributes: LeaseAttributes, annotations: KubeNode["annotations"]): LeaseAttributes;
  /** The same for what is only to be looked at: an overwrite that cannot be read changes nothing. */
  shown(attributes: LeaseAttributes, annotations: KubeNode["annotations"]): LeaseAttributes;
}

const addresses = ["publicIp", "publicIpv6"] as const;

/** An address of ours, and what was published for it: the same where nothing overwrote it. */
interface Known {
  readonly own: IpAddress | undefined;
  readonly by: IpAddress | undefined;
}

export function createPublished(names: AnnotationNames): Published {
  const known = new Map<(typeof addresses)[number], Known>();

  const plain = (attributes: LeaseAttributes): LeaseAttributes => {
    const ours = addresses.map((address) => {
      const [value, last] = [attributes[address], known.get(address)];
      return [address, isSame(value, last?.by) ? last?.own : value] as const;
    });
    const given = ours.filter(([, value]) => value !== undefined);
    return { ...attributes, ...Object.fromEntries(given) };
  };

  return {
    wanted(attributes, annotations) {
      const ours = plain(attributes);
      const result = overwritten(ours, annotations, names);
      for (const address of addresses) known.set(address, { own: ours[address], by: result[address] });
      return result;
    },

    shown(attributes, annotations) {
      // What is not as we published it is seen to be another's as it stands.
      if (addresses.some((address) => !isSame(attributes[address], known.get(address)?.by)))
        return attributes;
      try {
        return overwritten(plain(attributes), annotations, names);
      } catch (error) {
        if (!(error instanceof FlannelError)) throw error;
        return attributes;
      }
    },
  };
}

function isSame(a: IpAddress | undefined, b: IpAddress | undefined): boolean {
  return a === undefined || b === undefined ? a === b : a.equals(b);
}
