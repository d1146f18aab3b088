/** Why a packet is dropped: names and meanings of the native engine's counters. */
export const dropReasons = [
  "noRoute",
  "multicast",
  "notIp",
  "truncated",
  "badOffload",
  "badVxlan",
  "wrongVni",
  "wrongMac",
  "arp",
  "notIpFrame",
  "unknownSender",
  "spoofedSource",
  "outsideOverlay",
  "ecnCe",
  "ttlExceeded",
  "socketError",
  "sendQueueFull",
  // The kernel's own counts, which the native engine reads.
  "tunQueueFull",
  "receiveBufferFull",
  "tunError",
  "tunDown",
] as const;

export type DropReason = (typeof dropReasons)[number];

/** A packet that goes nowhere. */
export interface Dropped {
  readonly drop: DropReason;
}
