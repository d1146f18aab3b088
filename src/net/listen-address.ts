import { type IpAddress, tryParseIpAddress } from "./address.ts";

/** Where a server listens. */
export interface ListenAddress {
  readonly ip: IpAddress;
  /** 0 for one that is free. */
  readonly port: number;
}

/** `192.0.2.1:2379` or `[2001:db8::1]:2379`; undefined for anything else, names of hosts included. */
export function tryParseListenAddress(text: string): ListenAddress | undefined {
  const [, bracketed, plain, digits] = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text) ?? [];
  const ip = tryParseIpAddress(bracketed ?? plain ?? "");
  const port = Number(digits);
  if (ip === undefined || (ip.family === 6) !== (bracketed !== undefined) || port > 65535) return undefined;
  return { ip, port };
}

/** The same text for the same address; what stands behind `http://` to reach it. */
export function listenAddressText({ ip, port }: ListenAddress): string {
  return ip.family === 6 ? `[${ip}]:${port}` : `${ip}:${port}`;
}
