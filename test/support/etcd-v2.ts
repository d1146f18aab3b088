import type { Etcd } from "./etcd.ts";

/** A hand in the keys of etcd's API v2, as `curl` would be. */
export interface EtcdV2Keys {
  put(key: string, value: string, ttlSeconds?: number): Promise<void>;
  get(key: string): Promise<{ value: string; lapses: boolean; ttlSeconds: number } | undefined>;
  /** Directories too, with all that is in them. */
  delete(key: string): Promise<void>;
}

export function etcdV2Keys({ endpoint }: Pick<Etcd, "endpoint">): EtcdV2Keys {
  const ask = async (
    method: string,
    key: string,
    more: { query?: string; form?: Record<string, string> },
  ) => {
    const path = key.split("/").map(encodeURIComponent).join("/");
    const response = await fetch(`${endpoint}/v2/keys${path}${more.query ?? ""}`, {
      method,
      ...(more.form === undefined ? {} : { body: new URLSearchParams(more.form) }),
      signal: AbortSignal.timeout(5_000),
      proxy: false,
    });
    const text = await response.text();
    if (response.status !== 404 && !response.ok) throw new Error(`${method} ${key}: ${text}`);
    return response.status === 404
      ? undefined
      : (JSON.parse(text) as { node: { value?: string; ttl?: number; expiration?: string } });
  };
  return {
    async put(key, value, ttlSeconds) {
      const form = { value, ...(ttlSeconds === undefined ? {} : { ttl: String(ttlSeconds) }) };
      await ask("PUT", key, { form });
    },
    async get(key) {
      const node = (await ask("GET", key, { query: "?quorum=true" }))?.node;
      if (node === undefined) return undefined;
      const { value = "", ttl = 0, expiration } = node;
      return { value, lapses: expiration !== undefined, ttlSeconds: ttl };
    },
    async delete(key) {
      await ask("DELETE", key, { query: "?recursive=true" });
    },
  };
}
