import { existsSync, readFileSync } from "node:fs";

/** The profile that container engines go by when told nothing else; of Debian's golang-github-containers-common. */
const path = "/usr/share/containers/seccomp.json";

/** Why there is no profile here; undefined where there is. */
export function seccompRefused(): string | undefined {
  return existsSync(path) ? undefined : `${path} is missing: install golang-github-containers-common`;
}

interface Profile {
  readonly defaultAction: string;
  readonly archMap: readonly {
    readonly architecture: string;
    readonly subArchitectures: readonly string[];
  }[];
  readonly syscalls: readonly Rule[];
}

interface Rule {
  readonly names: readonly string[];
  readonly action: string;
  readonly errnoRet?: number;
  readonly args?: readonly object[];
  readonly includes?: Condition;
  readonly excludes?: Condition;
}

interface Condition {
  readonly caps?: readonly string[];
  readonly arches?: readonly string[];
}

/**
 * `RuntimeDefault` for a container with these capabilities (`CAP_…`), as `linux.seccomp` of the runtime's configuration.
 * What no rule names is EPERM, as containerd has it.
 */
export function runtimeDefaultSeccomp(capabilities: readonly string[]): object {
  const profile = JSON.parse(readFileSync(path, "utf8")) as Profile;
  const machine = process.arch === "x64" ? "amd64" : process.arch;
  const fits = ({ caps = [], arches = [] }: Condition = {}) =>
    caps.every((cap) => capabilities.includes(cap)) && (arches.length === 0 || arches.includes(machine));
  const excluded = ({ caps = [], arches = [] }: Condition = {}) =>
    caps.some((cap) => capabilities.includes(cap)) || arches.includes(machine);
  const native = machine === "amd64" ? "SCMP_ARCH_X86_64" : "SCMP_ARCH_AARCH64";
  const architectures = profile.archMap.find(({ architecture }) => architecture === native);
  return {
    defaultAction: profile.defaultAction,
    defaultErrnoRet: 1,
    architectures: [native, ...(architectures?.subArchitectures ?? [])],
    syscalls: profile.syscalls
      .filter(({ includes, excludes }) => fits(includes) && !excluded(excludes))
      .map(({ names, action, errnoRet, args }) => ({
        ...{ names, action },
        ...(errnoRet === undefined ? {} : { errnoRet }),
        ...(args == null || args.length === 0 ? {} : { args }),
      })),
  };
}
