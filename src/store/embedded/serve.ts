import type { Log } from "../../base/log.ts";
import { FlannelError } from "../../base/error.ts";
import { type ListenAddress, listenAddressText, tryParseListenAddress } from "../../net/listen-address.ts";
import { openDatabase } from "./database.ts";
import { type Listener, type ListenerLimits, openListener } from "./listener.ts";
import { type ServiceLimits, StoreService } from "./service.ts";
import { openTrust, type TrustSettings } from "./trust.ts";

export interface ServeOptions {
  /** Made where it is not there. */
  readonly dataDir: string;
  /** `HOST:PORT`. */
  readonly listen: string;
  readonly log: Log;
  /** Of the program. */
  readonly version: string;
  /** Without it whoever is on this host may do everything, in the clear. */
  readonly trust?: TrustSettings;
  readonly serviceLimits?: Partial<ServiceLimits>;
  readonly listenerLimits?: Partial<ListenerLimits>;
}

export interface StoreServer extends AsyncDisposable {
  /** Where clients reach it: `http://127.0.0.1:2379`. */
  readonly endpoint: string;
  readonly service: StoreService;
  readonly listener: Listener;
}

/**
 * Serves the leases in a data directory until it is disposed of.
 * @throws FlannelError of the database and the listener; those of openTrust
 */
export async function openStoreServer(options: ServeOptions): Promise<StoreServer> {
  const { log, version } = options;
  const { ip, port } = parseListen(options.listen);
  const host = `${ip}`;
  const trust = openTrust(options.trust ?? { prefix: "/" }, host, log);
  const database = openDatabase(options.dataDir);
  const service = new StoreService({
    database,
    log,
    version,
    ...(options.serviceLimits && { limits: options.serviceLimits }),
  });
  try {
    const listener = await openListener({
      service,
      log,
      host,
      port,
      access: trust.access(service),
      ...(trust.tls && { tls: trust.tls }),
      ...(options.listenerLimits && { limits: options.listenerLimits }),
    });
    const endpoint = `${trust.tls === undefined ? "http" : "https"}://${listenAddressText({ ip, port: listener.port })}`;
    log.info("lease store serves", {
      endpoint,
      dataDir: options.dataDir,
      revision: service.history.revision,
    });
    return {
      endpoint,
      service,
      listener,
      async [Symbol.asyncDispose]() {
        await listener[Symbol.asyncDispose]();
        service.close();
        trust[Symbol.dispose]();
      },
    };
  } catch (error) {
    service.close();
    trust[Symbol.dispose]();
    throw error;
  }
}

/** @throws FlannelError `store/listen` */
function parseListen(text: string): ListenAddress {
  const address = tryParseListenAddress(text);
  if (address !== undefined) return address;
  throw new FlannelError(
    "store/listen",
    "not an address to listen on",
    { listen: text.slice(0, 200) },
    { exitCode: 2, remedy: "Write it as 127.0.0.1:2379 or [::1]:2379." },
  );
}
