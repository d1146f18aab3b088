import { type IpPacket, viewOf } from "./ip.ts";

/** The ECN field's values (RFC 3168 §5). */
const notEct = 0b00;
const ect1 = 0b01;
const ect0 = 0b10;
const ce = 0b11;

/** The outer TOS of a packet with traffic class `inner`: DSCP 0, ECN copied but CE as ECT(0), as Linux does. */
export function outerTos(inner: number): number {
  const ecn = inner & 0b11;
  return ecn === ce ? ect0 : ecn;
}

/** RFC 6040 §4.2, figure 4: by inner, then by outer field, both in the order 00 (Not-ECT), 01, 10, 11 (CE). */
const decapsulated = [
  [notEct, notEct, notEct, "drop"],
  [ect1, ect1, ect1, ce],
  [ect0, ect1, ect0, ce],
  [ce, ce, ce, ce],
] as const;

/** The inner packet's ECN field after decapsulation, `drop` where it cannot carry the congestion met outside. */
export function innerEcn(outer: number, inner: number): number | "drop" {
  return decapsulated[inner & 0b11]?.[outer & 0b11] ?? "drop";
}

/** Sets the packet's ECN field in place. A header checksum that was wrong stays wrong by as much. */
export function setEcn({ family, bytes }: IpPacket, ecn: number): void {
  const view = viewOf(bytes);
  const before = view.getUint16(0);
  if (family === 6) {
    view.setUint16(0, (before & ~0x0030) | (ecn << 4));
    return;
  }
  const after = (before & ~0x0003) | ecn;
  view.setUint16(0, after);
  // RFC 1624 §3: HC' = ~(~HC + ~m + m').
  let sum = (~view.getUint16(10) & 0xffff) + (~before & 0xffff) + after;
  while (sum > 0xffff) sum = (sum >> 16) + (sum & 0xffff);
  view.setUint16(10, ~sum & 0xffff);
}
