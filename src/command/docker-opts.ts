import { readFileSync, writeFileSync } from "node:fs";
import { errorText, FlannelError } from "../base/error.ts";
import {
  dockerOptsText,
  dockerOptsUsage,
  type DockerOptsRequest,
  dockerSubnet,
  parseDockerOptsArguments,
} from "../host/docker-opts.ts";
import { envFileValues } from "../host/env-file.ts";
import { openAddon } from "../native/addon.ts";

/** Under this name the program is the script that flannel ships. */
export const dockerOptsProgram = "mk-docker-opts.sh";

/**
 * Writes Docker's options from subnet.env, as mk-docker-opts.sh does; no value passes through a shell.
 * @returns the exit code; what there is to say is said on standard error
 */
export async function dockerOpts(
  program: string,
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<number> {
  const request = parseDockerOptsArguments(argv);
  if (request === undefined) return refuse(dockerOptsUsage(program));
  try {
    const variables = new Map(Object.entries(env).map(([name, value]) => [name, value ?? ""] as const));
    for (const [name, value] of readEnvFile(request)) variables.set(name, value);
    const text = dockerOptsText(request, variables);
    write(request, text);
    const route = await routeToSubnet(variables);
    return route === undefined ? 0 : refuse(`Your routing table already contains the subnet: ${route}`);
  } catch (error) {
    if (!(error instanceof FlannelError)) throw error;
    return refuse(errorText(error));
  }
}

function refuse(text: string): 1 {
  process.stderr.write(`${text.trimEnd()}\n`);
  return 1;
}

/** A missing file is an empty one. */
function readEnvFile({ envFile }: DockerOptsRequest): ReadonlyMap<string, string> {
  try {
    return envFileValues(readFileSync(envFile, "utf8"));
  } catch {
    return new Map();
  }
}

/** In place, not renamed: it may be a link, or /dev/stdout. */
function write({ dockerFile }: DockerOptsRequest, text: string): void {
  try {
    writeFileSync(dockerFile, text);
  } catch (error) {
    throw new FlannelError("docker-opts/write", `cannot write ${dockerFile}`, {}, { cause: error });
  }
}

/** Our subnet routed to another host would swallow what Docker's bridge is to get. */
async function routeToSubnet(variables: ReadonlyMap<string, string>): Promise<string | undefined> {
  const subnet = dockerSubnet(variables);
  if (subnet === undefined) return undefined;
  const kernel = await openAddon().openKernel();
  try {
    const found = (await kernel.routes()).find(({ to, via }) => to === `${subnet}` && via !== "");
    return found === undefined ? undefined : `${found.to} via ${found.via}`;
  } finally {
    kernel.close();
  }
}
