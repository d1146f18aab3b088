import { FlannelError } from "../base/error.ts";

const macPattern = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;

/** A 48-bit Ethernet address in lower-case colon text, which is also how it compares. */
export type Mac = string & { readonly brand: "Mac" };

/**
 * Parses `aa:bb:cc:dd:ee:ff` (any case, `-` allowed) of one station: no multicast, not all zero.
 * @throws FlannelError `mac/invalid`
 */
export function parseMac(text: string): Mac {
  const mac = text.toLowerCase().replaceAll("-", ":");
  if (!macPattern.test(mac) || isMulticast(mac) || mac === "00:00:00:00:00:00") {
    throw new FlannelError("mac/invalid", `not a unicast MAC address: ${JSON.stringify(text.slice(0, 64))}`);
  }
  return mac as Mac;
}

/** A locally administered unicast address made of the first six of `bytes`. */
export function localMac(bytes: Uint8Array): Mac {
  const octets = Array.from(bytes.subarray(0, 6));
  octets[0] = ((octets[0] ?? 0) & 0xfc) | 0x02;
  return octets.map((octet) => octet.toString(16).padStart(2, "0")).join(":") as Mac;
}

function isMulticast(mac: string): boolean {
  return (Number.parseInt(mac.slice(0, 2), 16) & 1) === 1;
}
