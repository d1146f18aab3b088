import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Where Debian's containernetworking-plugins are. */
export const stockPlugins = "/usr/lib/cni";

/** Why there are no real delegates here; undefined where there are. */
export function delegatesRefused(): string | undefined {
  const missing = ["bridge", "host-local", "portmap"].filter((name) => !existsSync(join(stockPlugins, name)));
  return missing.length === 0 ? undefined : `${missing.join(", ")} not in ${stockPlugins}`;
}

export interface CniAnswer {
  readonly code: number;
  readonly output: string;
  readonly errors: string;
}

export interface CniCall {
  readonly command: string;
  readonly containerId?: string;
  readonly interfaceName?: string;
  /** Path of the container's namespace. */
  readonly netns?: string;
}

/** Runs a plugin as container runtimes do: by its path, the configuration on standard input, nothing else said. */
export async function runCniPlugin(
  program: string,
  call: CniCall,
  config: string,
  { namespace, path }: { readonly namespace?: string; readonly path: readonly string[] },
): Promise<CniAnswer> {
  const env = {
    PATH: process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin",
    CNI_COMMAND: call.command,
    CNI_CONTAINERID: call.containerId ?? "",
    CNI_IFNAME: call.interfaceName ?? "eth0",
    CNI_NETNS: call.netns ?? "",
    CNI_PATH: path.join(":"),
  };
  const through = namespace === undefined ? [] : ["ip", "netns", "exec", namespace];
  const child = Bun.spawn([...through, program], {
    env,
    stdin: Buffer.from(config),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, output, errors };
}

interface Plugin {
  readonly type: string;
  readonly capabilities?: Readonly<Record<string, boolean>>;
}

/**
 * A runtime's walk over a configuration list: each plugin with the result of the one before at ADD, with the last at
 * CHECK, and backwards at DEL.
 * @returns the last answer, or that of the first plugin that failed
 */
export async function runConflist(
  file: string,
  call: CniCall,
  where: { readonly namespace: string; readonly path: readonly string[] },
  { result, args = {} }: { readonly result?: string; readonly args?: Readonly<Record<string, unknown>> } = {},
): Promise<CniAnswer> {
  const { name, cniVersion, plugins } = JSON.parse(readFileSync(file, "utf8")) as {
    name: string;
    cniVersion: string;
    plugins: Plugin[];
  };
  let answer: CniAnswer = { code: 0, output: result ?? "", errors: "" };
  let previous = result;
  for (const plugin of call.command === "DEL" ? [...plugins].reverse() : plugins) {
    const { capabilities = {}, ...rest } = plugin;
    const wanted = Object.entries(args).filter(([key]) => capabilities[key] === true);
    const config = JSON.stringify({
      ...rest,
      name,
      cniVersion,
      ...(wanted.length > 0 && { runtimeConfig: Object.fromEntries(wanted) }),
      ...(previous !== undefined && { prevResult: JSON.parse(previous) as unknown }),
    });
    const program = where.path
      .map((directory) => join(directory, plugin.type))
      .find((one) => existsSync(one));
    if (program === undefined) throw new Error(`no plugin ${plugin.type} in ${where.path.join(":")}`);
    answer = await runCniPlugin(program, call, config, where);
    if (answer.code !== 0) return answer;
    if (call.command === "ADD") previous = answer.output;
  }
  return answer;
}
