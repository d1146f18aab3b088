import { FlannelError } from "../../base/error.ts";
import type { Log } from "../../base/log.ts";
import { openAccess } from "./access.ts";
import { type Access, allowAll } from "./authorize.ts";
import { openServerTls, type ServerTls } from "./server-tls.ts";
import type { StoreService } from "./service.ts";
import { openUsersFile, type UsersFile } from "./users-file.ts";

/** How clients are told from each other, and from strangers. */
export interface TrustSettings {
  /** Certificate and key of the service (PEM); without them it speaks in the clear. */
  readonly certFile?: string;
  readonly keyFile?: string;
  /** What clients' certificates must be signed by; without it none is asked for. */
  readonly clientCaFile?: string;
  /** Users who may log in with a password. */
  readonly usersFile?: string;
  /** What the network's keys begin with. */
  readonly prefix: string;
}

/** What the listener needs. */
export interface Trust extends Disposable {
  readonly tls: ServerTls | undefined;
  /** Once the service is there that is to be guarded. */
  access(service: Pick<StoreService, "history">): Access;
}

/**
 * Refuses what would let strangers in: in the clear only this host may reach the service, and over TLS a client
 * must have a certificate or log in.
 * @param host the address listened on
 * @throws FlannelError `store/no-tls`, `store/no-trust`, `store/tls-files`, `store/users`
 */
export function openTrust(settings: TrustSettings, host: string, log: Log): Trust {
  const { certFile, keyFile, clientCaFile, usersFile, prefix } = settings;
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw refused("store/no-tls", "certfile and keyfile go together", host, "Set both in store.embedded.");
  }
  const isLoopback = host.startsWith("127.") || host === "::1";
  const hasTls = certFile !== undefined && keyFile !== undefined;
  if (!isLoopback && !hasTls) {
    throw refused(
      "store/no-tls",
      "the lease store is not served in the clear to other hosts",
      host,
      "Listen on 127.0.0.1 or [::1], or set store.embedded.certfile and keyfile: flannel-lite store init makes them.",
    );
  }
  if (!hasTls && clientCaFile !== undefined) {
    throw refused(
      "store/no-tls",
      "there are no client certificates without TLS",
      host,
      "Set store.embedded.certfile and keyfile, or drop client_cafile.",
    );
  }
  if (!isLoopback && clientCaFile === undefined && usersFile === undefined) {
    throw refused(
      "store/no-trust",
      "whoever reaches the lease store could change it",
      host,
      "Set store.embedded.client_cafile, or users_file, so that clients prove who they are.",
    );
  }
  const users: UsersFile | undefined = usersFile === undefined ? undefined : openUsersFile(usersFile, log);
  let tls: ServerTls | undefined;
  try {
    tls = hasTls
      ? openServerTls({
          files: { certFile, keyFile, ...(clientCaFile !== undefined && { clientCaFile }) },
          certificateOptional: clientCaFile === undefined || users !== undefined,
          log,
        })
      : undefined;
  } catch (error) {
    users?.[Symbol.dispose]();
    throw error;
  }
  const isOpen = clientCaFile === undefined && users === undefined;
  return {
    tls,
    access: ({ history }) =>
      isOpen
        ? allowAll
        : openAccess({
            prefix,
            users: () => users?.users() ?? [],
            attachedKeys: (lease) => history.attached(lease),
            elapsedMs: () => performance.now(),
          }),
    [Symbol.dispose]() {
      tls?.[Symbol.dispose]();
      users?.[Symbol.dispose]();
    },
  };
}

function refused(code: string, message: string, address: string, remedy: string): FlannelError {
  return new FlannelError(code, message, { address }, { exitCode: 2, remedy });
}
