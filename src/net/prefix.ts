import { FlannelError } from "../base/error.ts";
import { type Family, familyBits, IpAddress, tryParseIpAddress } from "./address.ts";

/** An IP network: `address` is its first address (host bits are cleared), `length` its prefix length in bits. */
export class Prefix {
  readonly address: IpAddress;
  readonly length: number;

  constructor(address: IpAddress, length: number) {
    const bits = familyBits(address.family);
    if (!Number.isInteger(length) || length < 0 || length > bits) {
      throw new RangeError(`no IPv${address.family} prefix length: ${length}`);
    }
    const hostBits = BigInt(bits - length);
    const first = (address.value >> hostBits) << hostBits;
    this.address = first === address.value ? address : new IpAddress(address.family, first);
    this.length = length;
  }

  get family(): Family {
    return this.address.family;
  }

  /** Number of addresses. */
  get size(): bigint {
    return 1n << BigInt(familyBits(this.family) - this.length);
  }

  /** The last address. */
  get last(): IpAddress {
    return this.address.plus(this.size - 1n);
  }

  contains(other: IpAddress | Prefix): boolean {
    const inner = other instanceof Prefix ? other : new Prefix(other, familyBits(other.family));
    return inner.length >= this.length && this.overlaps(inner);
  }

  overlaps(other: Prefix): boolean {
    if (this.family !== other.family) return false;
    const shift = BigInt(familyBits(this.family) - Math.min(this.length, other.length));
    return this.address.value >> shift === other.address.value >> shift;
  }

  equals(other: Prefix | undefined): boolean {
    return other !== undefined && this.length === other.length && this.address.equals(other.address);
  }

  /** By first address, then by length. */
  compare(other: Prefix): number {
    return this.address.compare(other.address) || this.length - other.length;
  }

  toString(): string {
    return `${this.address}/${this.length}`;
  }

  toJSON(): string {
    return this.toString();
  }
}

/** The prefix that holds just `address`. */
export function hostPrefix(address: IpAddress): Prefix {
  return new Prefix(address, familyBits(address.family));
}

/**
 * Parses `<address>/<length>`; host bits are cleared.
 * @throws FlannelError `prefix/invalid`
 */
export function parsePrefix(text: string): Prefix {
  const prefix = tryParsePrefix(text);
  if (prefix === undefined) throw new FlannelError("prefix/invalid", `not a CIDR: ${JSON.stringify(text)}`);
  return prefix;
}

/** As {@link parsePrefix}, with undefined for text that is no prefix. */
export function tryParsePrefix(text: string): Prefix | undefined {
  const slash = text.indexOf("/");
  const address = slash < 0 ? undefined : tryParseIpAddress(text.slice(0, slash));
  const digits = text.slice(slash + 1);
  if (address === undefined || !/^(0|[1-9]\d{0,2})$/.test(digits)) return undefined;
  const length = Number(digits);
  return length <= familyBits(address.family) ? new Prefix(address, length) : undefined;
}
