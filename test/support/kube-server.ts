/**
 * The test API server as a process of its own, for namespaces: `kube-server.ts HOST PORT CONTROL [OPTIONS]`,
 * OPTIONS of startKubeApi as JSON. Tests reach its cluster by the unix socket CONTROL, with the name of a method of TestKubeApi and its arguments as JSON.
 */
import { startKubeApi, type TestKubeApiOptions } from "./kube-api.ts";

const [hostname = "", port = "", control = "", options = "{}"] = process.argv.slice(2);
const api = startKubeApi({
  ...(JSON.parse(options) as TestKubeApiOptions),
  ...{ hostname, port: Number(port), bookmarkMs: 1_000 },
});

Bun.serve({
  unix: control,
  async fetch(request) {
    const { method, args } = (await request.json()) as { method: string; args: never[] };
    const found: unknown = Reflect.get(api, method);
    const result: unknown = typeof found === "function" ? Reflect.apply(found, api, args) : found;
    return Response.json({ result: result ?? null });
  },
});
process.stdout.write("listening\n");
