import { FlannelError } from "../base/error.ts";
import { type Prefix, tryParsePrefix } from "../net/prefix.ts";

/** What mk-docker-opts.sh is asked for. */
export interface DockerOptsRequest {
  readonly envFile: string;
  readonly dockerFile: string;
  /** One line for each option. */
  readonly individual: boolean;
  /** One line with all options. */
  readonly combined: boolean;
  /** Name of the variable in that line. */
  readonly combinedKey: string;
  readonly ipMasq: boolean;
}

/**
 * Reads the options as `getopts` would: letters may be bundled, values may stand right behind their letter,
 * the first other word ends them. undefined for `-h`, `-?`, an unknown letter or a missing value.
 */
export function parseDockerOptsArguments(argv: readonly string[]): DockerOptsRequest | undefined {
  let envFile = "/run/flannel/subnet.env";
  let dockerFile = "/run/docker_opts.env";
  let combinedKey = "DOCKER_OPTS";
  const seen = new Set<string>();
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] ?? "";
    if (!/^-./s.test(word) || word === "--") break;
    for (let letterAt = 1; letterAt < word.length; letterAt++) {
      const letter = word[letterAt] ?? "";
      if ("icm".includes(letter)) {
        seen.add(letter);
        continue;
      }
      if (!"fdk".includes(letter)) return undefined;
      const value = letterAt + 1 < word.length ? word.slice(letterAt + 1) : argv[++at];
      if (value === undefined) return undefined;
      if (letter === "f") envFile = value;
      else if (letter === "d") dockerFile = value;
      else combinedKey = value;
      break;
    }
  }
  // The name of a variable; anything else would be code to the shell that reads the file.
  if (!/^[A-Za-z_]\w*$/.test(combinedKey)) return undefined;
  const both = !seen.has("i") && !seen.has("c");
  return {
    envFile,
    dockerFile,
    individual: both || seen.has("i"),
    combined: both || seen.has("c"),
    combinedKey,
    ipMasq: !seen.has("m"),
  };
}

/** What the program says where it cannot read its command line. */
export function dockerOptsUsage(program: string): string {
  return `${program} [-f FLANNEL-ENV-FILE] [-d DOCKER-ENV-FILE] [-i] [-c] [-m] [-k COMBINED-KEY]

Generate Docker daemon options based on flannel env file
OPTIONS:
	-f	Path to flannel env file. Defaults to /run/flannel/subnet.env
	-d	Path to Docker env file to write to. Defaults to /run/docker_opts.env
	-i	Output each Docker option as individual var. e.g. DOCKER_OPT_MTU=1500
	-c	Output combined Docker options into DOCKER_OPTS var
	-k	Set the combined options key to this value (default DOCKER_OPTS=)
	-m	Do not output --ip-masq (useful for older Docker version)
`;
}

/**
 * The file for Docker's unit, byte for byte as mk-docker-opts.sh writes it: of the variables that a shell would
 * have after reading subnet.env, those named DOCKER_OPT_*, in the order of their names.
 * @param variables the environment, overridden by the env file
 * @throws FlannelError `docker-opts/invalid`: FLANNEL_IPMASQ is neither true nor false
 */
export function dockerOptsText(
  { individual, combined, combinedKey, ipMasq }: DockerOptsRequest,
  variables: ReadonlyMap<string, string>,
): string {
  const all = new Map(variables);
  const of = (name: string) => variables.get(name) || undefined;
  const subnet = of("FLANNEL_SUBNET");
  const mtu = of("FLANNEL_MTU");
  const masquerades = of("FLANNEL_IPMASQ");
  if (subnet !== undefined) all.set("DOCKER_OPT_BIP", `--bip=${subnet}`);
  if (mtu !== undefined) all.set("DOCKER_OPT_MTU", `--mtu=${mtu}`);
  if (masquerades !== undefined && ipMasq) {
    if (masquerades !== "true" && masquerades !== "false") {
      throw new FlannelError("docker-opts/invalid", `Invalid value of FLANNEL_IPMASQ: ${masquerades}`);
    }
    // Who masquerades is one of the two: flannel, or Docker.
    all.set("DOCKER_OPT_IPMASQ", `--ip-masq=${masquerades === "false"}`);
  }
  const names = [...all.keys()].filter((name) => name.startsWith("DOCKER_OPT_")).sort();
  const options = names.map((name) => all.get(name) ?? "");
  const before = of(combinedKey);
  const together = [...(before === undefined ? [""] : [`${before} `]), ...options].join(" ");
  return [
    ...(individual ? names.map((name, at) => `${name}="${options[at]}"\n`) : []),
    ...(combined ? [`${combinedKey}="${together}"\n`] : []),
  ].join("");
}

/** The network that the script looks for among the routes: one below FLANNEL_SUBNET's last octet. */
export function dockerSubnet(variables: ReadonlyMap<string, string>): Prefix | undefined {
  const subnet = tryParsePrefix(variables.get("FLANNEL_SUBNET") ?? "");
  return subnet?.family === 4 ? subnet : undefined;
}
