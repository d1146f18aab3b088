import { FlannelError } from "../base/error.ts";

export type Family = 4 | 6;

/** An IPv4 or IPv6 address: immutable, compared by value, printed in canonical text (RFC 5952). */
export class IpAddress {
  readonly family: Family;
  /** The address as an unsigned integer in network order. */
  readonly value: bigint;

  constructor(family: Family, value: bigint) {
    if (value < 0n || value > familyMax[family]) throw new RangeError(`no IPv${family} address: ${value}`);
    this.family = family;
    this.value = value;
  }

  /** The address `count` places further; outside the family's range it throws RangeError. */
  plus(count: bigint | number): IpAddress {
    return new IpAddress(this.family, this.value + BigInt(count));
  }

  equals(other: IpAddress | undefined): boolean {
    return other !== undefined && this.family === other.family && this.value === other.value;
  }

  /** Negative, zero or positive, IPv4 before IPv6. */
  compare(other: IpAddress): number {
    if (this.family !== other.family) return this.family - other.family;
    return this.value < other.value ? -1 : this.value > other.value ? 1 : 0;
  }

  toString(): string {
    return this.family === 4 ? ipv4Text(this.value) : ipv6Text(this.value);
  }

  toJSON(): string {
    return this.toString();
  }
}

/** Number of bits of an address of `family`. */
export function familyBits(family: Family): 32 | 128 {
  return family === 4 ? 32 : 128;
}

/**
 * Parses an IPv4 address in dotted decimal (no leading zeros) or an IPv6 address (RFC 4291 §2.2, no zone).
 * An IPv4-mapped IPv6 address (::ffff:a.b.c.d) is the IPv4 address, as in flannel.
 * @throws FlannelError `address/invalid`
 */
export function parseIpAddress(text: string): IpAddress {
  const address = tryParseIpAddress(text);
  if (address === undefined)
    throw new FlannelError("address/invalid", `not an IP address: ${JSON.stringify(text)}`);
  return address;
}

/** As {@link parseIpAddress}, with undefined for text that is no address. */
export function tryParseIpAddress(text: string): IpAddress | undefined {
  if (!text.includes(":")) {
    const value = ipv4Value(text);
    return value === undefined ? undefined : new IpAddress(4, value);
  }
  const value = ipv6Value(text);
  if (value === undefined) return undefined;
  return value >> 32n === 0xffffn ? new IpAddress(4, value & 0xffff_ffffn) : new IpAddress(6, value);
}

const familyMax: Readonly<Record<Family, bigint>> = { 4: 2n ** 32n - 1n, 6: 2n ** 128n - 1n };

function ipv4Value(text: string): bigint | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return undefined;
    value = value * 256 + Number(part);
  }
  return BigInt(value);
}

function ipv4Text(value: bigint): string {
  const bits = Number(value);
  return `${bits >>> 24}.${(bits >>> 16) & 255}.${(bits >>> 8) & 255}.${bits & 255}`;
}

function ipv6Value(text: string): bigint | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const groups = halves.map((half) => (half === "" ? [] : half.split(":")));
  const last = groups[groups.length - 1];
  const tail = last?.[last.length - 1];
  if (last !== undefined && tail?.includes(".") === true) {
    const embedded = ipv4Value(tail);
    if (embedded === undefined) return undefined;
    last.splice(-1, 1, (embedded >> 16n).toString(16), (embedded & 0xffffn).toString(16));
  }
  const [head = [], rest] = groups;
  const count = head.length + (rest?.length ?? 0);
  if (rest === undefined ? count !== 8 : count > 7) return undefined;
  const all = [...head, ...Array<string>(8 - count).fill("0"), ...(rest ?? [])];
  let value = 0n;
  for (const group of all) {
    if (!/^[0-9a-fA-F]{1,4}$/.test(group)) return undefined;
    value = (value << 16n) | BigInt(`0x${group}`);
  }
  return value;
}

function ipv6Text(value: bigint): string {
  const groups = [96n, 64n, 32n, 0n].flatMap((shift) => {
    const word = Number((value >> shift) & 0xffff_ffffn);
    return [word >>> 16, word & 0xffff];
  });
  let best = { start: 0, length: 1 };
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (groups[start + length] === 0) length++;
    if (length > best.length) best = { start, length };
  }
  const hex = groups.map((group) => group.toString(16));
  if (best.length < 2) return hex.join(":");
  return `${hex.slice(0, best.start).join(":")}::${hex.slice(best.start + best.length).join(":")}`;
}
