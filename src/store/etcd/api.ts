import { FlannelError } from "../../base/error.ts";
import { contextText, type EtcdStoreOptions, openEtcdContext } from "./context.ts";
import type { EtcdContext } from "./lease-entry.ts";

/** Which of etcd's two APIs, whose keys know nothing of each other, holds the network. */
export interface EtcdApi {
  /** For logs and `status`; names both places until one of them is chosen. */
  readonly description: string;
  /** Where the network is. @throws FlannelError `network/absent` (retryable) while that is open */
  context(stop: AbortSignal): Promise<EtcdContext>;
  /** The network configuration, from the place chosen or, once there is one, that chooses it. */
  readConfig(stop: AbortSignal): Promise<string | undefined>;
  /** Where a first network configuration belongs. */
  readonly first: EtcdContext;
  close(): void;
}

/** @throws FlannelError `store/endpoint` for what is no endpoint */
export function openEtcdApi(options: EtcdStoreOptions): EtcdApi {
  const { api = "v3" } = options;
  return api === "auto" ? searched(options) : fixed(openEtcdContext(options, api));
}

function fixed(context: EtcdContext): EtcdApi {
  return {
    description: contextText(context),
    context: async () => context,
    readConfig: (stop) => readConfigKey(context, stop),
    first: context,
    close: () => context.client.close(),
  };
}

/**
 * v3's configuration counts before v2's. Once found, the place is kept for as long as we run: our lease is
 * there. A v2 that cannot be asked is none, since most etcd do not serve it; v2 is believed only once v3 has
 * answered that it holds nothing.
 */
function searched(options: EtcdStoreOptions): EtcdApi {
  const v3 = openEtcdContext(options, "v3");
  const v2 = openEtcdContext(options, "v2");
  let chosen: EtcdContext | undefined;
  let said: string | undefined;

  const inV2 = async (stop: AbortSignal): Promise<string | undefined> => {
    try {
      const document = await readConfigKey(v2, stop);
      said = undefined;
      return document;
    } catch (error) {
      stop.throwIfAborted();
      if (!(error instanceof FlannelError) || error.code === "store/closed") throw error;
      if (said !== error.message) {
        options.log.debug("etcd cannot be asked by API v2", { ...error.fields, error: error.message });
      }
      said = error.message;
      return undefined;
    }
  };

  /** etcd 2 knows no v3; but so answers an etcd 3 whose gateway is off, and there v3 may hold another network. */
  const notServed = async (error: unknown, stop: AbortSignal): Promise<never> => {
    if (!(error instanceof FlannelError) || error.code !== "store/protocol") throw error;
    if ((await inV2(stop)) === undefined) throw error;
    throw new FlannelError(error.code, error.message, error.fields, {
      cause: error,
      remedy: `By API v2 there is ${v2.layout.config}: for etcd 2 set store.etcd.api = "v2", else make v3 answer.`,
    });
  };

  const search = async (stop: AbortSignal): Promise<string | undefined> => {
    const inV3 = await readConfigKey(v3, stop).catch((error: unknown) => notServed(error, stop));
    if (inV3 !== undefined) {
      chosen = v3;
      return inV3;
    }
    const document = await inV2(stop);
    if (document === undefined) return undefined;
    chosen = v2;
    options.log.info("the network is kept in etcd's API v2", { store: contextText(v2) });
    return document;
  };

  return {
    get description() {
      if (chosen !== undefined) return contextText(chosen);
      return `${contextText(v3)} (key ${v3.layout.config} by API v3, /v2/keys${v2.layout.config} by API v2)`;
    },
    async context(stop) {
      if (chosen === undefined) await search(stop);
      if (chosen !== undefined) return chosen;
      throw new FlannelError(
        "network/absent",
        `${this.description} has no network configuration`,
        {},
        {
          retryable: true,
          remedy: 'Put one there, or say with store.etcd.api which of the two is meant ("v3", "v2").',
        },
      );
    },
    readConfig: (stop) => (chosen === undefined ? search(stop) : readConfigKey(chosen, stop)),
    first: v3,
    close() {
      v3.client.close();
      v2.client.close();
    },
  };
}

async function readConfigKey(
  { client, layout }: EtcdContext,
  stop: AbortSignal,
): Promise<string | undefined> {
  const entry = await client.get(layout.config, stop);
  return entry === undefined ? undefined : Buffer.from(entry.value).toString("utf8");
}
