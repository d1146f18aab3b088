import { FlannelError } from "../base/error.ts";
import type { BackendConfig } from "../config/network.ts";
import type { Json } from "../lease/lease.ts";

/** Reads members of the Backend object; undefined for one that is absent or null. */
export interface BackendOptions {
  /** @throws FlannelError `network/backend` */
  integer(name: string, min: number, max: number): number | undefined;
  /** @throws FlannelError `network/backend` */
  flag(name: string): boolean;
}

/**
 * The Backend object of the network configuration. Members match case-insensitively (`name` is in lower case), unknown
 * ones are ignored, as in flannel.
 * @param kind the backend in flannel's error text, such as `VXLAN`
 */
export function backendOptions({ options }: BackendConfig, kind: string): BackendOptions {
  const members = new Map(Object.entries(options).map(([key, value]) => [key.toLowerCase(), { key, value }]));
  const refuse = (key: string, value: Json, allowed: string) =>
    new FlannelError(
      "network/backend",
      `error decoding ${kind} backend config: ${key} is ${JSON.stringify(value)}, it must be ${allowed}`,
      {},
      { remedy: "Correct the Backend object of the network configuration" },
    );
  return {
    integer(name, min, max) {
      const member = members.get(name);
      if (member === undefined || member.value === null) return undefined;
      if (!Number.isInteger(member.value) || Number(member.value) < min || Number(member.value) > max) {
        throw refuse(member.key, member.value, `an integer from ${min} to ${max}`);
      }
      return Number(member.value);
    },
    flag(name) {
      const member = members.get(name);
      if (member === undefined || member.value === null) return false;
      if (typeof member.value !== "boolean") throw refuse(member.key, member.value, "true or false");
      return member.value;
    },
  };
}
