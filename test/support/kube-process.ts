import { join } from "node:path";
import { type Lab, switchAddress } from "../../src/demo/lab.ts";
import { type Child, linesOf } from "../../src/demo/process.ts";
import type { NodeObject, SeenRequest, TestKubeApi, TestKubeApiOptions } from "./kube-api.ts";

type Methods = {
  [
    K in keyof TestKubeApi as TestKubeApi[K] extends (...args: never[]) => unknown ? K : never
  ]: TestKubeApi[K];
};

/** The test API server on a lab's switch, where its hosts reach it. */
export interface KubeProcess {
  readonly url: string;
  /** Calls a method of the server's cluster; its arguments must be JSON. */
  call<M extends Extract<keyof Methods, string>>(
    method: M,
    ...args: Parameters<Methods[M]>
  ): Promise<ReturnType<Methods[M]>>;
  getNode(name: string): Promise<NodeObject>;
  /** All that came. */
  requests(): Promise<readonly SeenRequest[]>;
  /** What came that the server does not know. */
  refused(): Promise<readonly string[]>;
  stop(): Promise<void>;
}

const port = 6443;

/** @param address of the switch, of either family */
export async function startKubeProcess(
  lab: Lab,
  address = switchAddress,
  options: Pick<TestKubeApiOptions, "tls" | "tokens"> = {},
): Promise<KubeProcess> {
  const control = join(lab.directory, "kube.sock");
  const program = join(import.meta.dir, "kube-server.ts");
  const child: Child = lab.start(lab.switchNamespace, [
    ...[process.execPath, "run", program, address, String(port), control, JSON.stringify(options)],
  ]);
  const first = await linesOf(child.output).next();
  if (first.value !== "listening") throw new Error(`the API server did not start: ${child.errorTail()}`);
  const ask = async (method: string, args: readonly unknown[]): Promise<unknown> => {
    const body = JSON.stringify({ method, args });
    const response = await fetch("http://control/", { method: "POST", unix: control, body });
    return ((await response.json()) as { result: unknown }).result;
  };
  return {
    url: `${options.tls === undefined ? "http" : "https"}://${address.includes(":") ? `[${address}]` : address}:${port}`,
    call: async (method, ...args) => (await ask(`${method}`, args)) as never,
    getNode: async (name) => (await ask("getNode", [name])) as NodeObject,
    requests: async () => (await ask("requests", [])) as SeenRequest[],
    refused: async () => (await ask("refused", [])) as string[],
    stop: () => child.end(0),
  };
}
