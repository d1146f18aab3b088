/** What the bench loads an overlay with and measures it by. IPv4. */
export interface BenchTools {
  /** Sends datagrams to `targets` in turn from one socket, as fast as the kernel takes them. */
  blast(
    targets: readonly string[],
    port: number,
    payloadBytes: number,
    durationMs: number,
  ): Promise<{ readonly sent: number; readonly ms: number }>;
  /** Error EADDRINUSE: the port is taken. */
  openCounter(port: number): BenchCounter;
  /** Error EADDRINUSE: the port is taken. */
  openEcho(port: number): BenchEcho;
  /** Round trips of one byte over one TCP connection to an echo, one after the other. */
  roundTrips(target: string, port: number, durationMs: number): Promise<RoundTrips>;
}

export interface BenchCounter {
  /** Counts datagrams until none has come for `idleMs`; waits `firstMs` for the first. */
  count(firstMs: number, idleMs: number): Promise<Counted>;
}

export interface Counted {
  readonly packets: number;
  /** From the first batch to the last. */
  readonly ms: number;
}

export interface BenchEcho {
  /** Answers one TCP connection byte for byte until it ends. */
  serve(): Promise<void>;
}

export interface RoundTrips {
  readonly count: number;
  readonly p50Us: number;
  readonly p99Us: number;
}
