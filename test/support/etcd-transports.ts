import { test } from "bun:test";

export const etcdTransports = ["gateway", "grpc"] as const;
export type EtcdTransport = (typeof etcdTransports)[number];

/** Registers a test once for each way of speaking to etcd, which its name ends with. */
export function overEachTransport(
  name: string,
  body: (transport: EtcdTransport) => Promise<void>,
  msMax?: number,
): void {
  for (const transport of etcdTransports) test(`${name} (${transport})`, () => body(transport), msMax);
}
