import type { Log } from "../../base/log.ts";
import { FlannelError } from "../../base/error.ts";
import { type ListenAddress, listenAddressText, tryParseListenAddress } from "../../net/listen-address.ts";
import type { Authorize } from "./authorize.ts";
import { openDatabase } from "./database.ts";
import { type Listener, type ListenerLimits, openListener } from "./listener.ts";
import { type ServiceLimits, StoreService } from "./service.ts";

export interface ServeOptions {
  /** Made where it is not there. */
  readonly dataDir: string;
  /** `HOST:PORT`. */
  readonly listen: string;
  readonly log: Log;
  /** Of the program. */
  readonly version: string;
  readonly authorize?: Authorize;
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
 * @throws FlannelError of the database and the listener; `store/no-tls` for an address others can reach
 */
export async function openStoreServer(options: ServeOptions): Promise<StoreServer> {
  const { log, version } = options;
  const { ip, port } = parseListen(options.listen);
  const host = `${ip}`;
  requireLoopback(host);
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
      ...(options.authorize && { authorize: options.authorize }),
      ...(options.listenerLimits && { limits: options.listenerLimits }),
    });
    const endpoint = `http://${listenAddressText({ ip, port: listener.port })}`;
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
      },
    };
  } catch (error) {
    service.close();
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

/** In the clear, only this host may reach it. */
function requireLoopback(host: string): void {
  if (host.startsWith("127.") || host === "::1") return;
  throw new FlannelError(
    "store/no-tls",
    "the lease store is not served in the clear to other hosts",
    { address: host },
    { exitCode: 2, remedy: "Listen on 127.0.0.1 or [::1]; this release has no TLS for it yet." },
  );
}
