import { chmodSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type LabHost, switchAddress } from "../../src/demo/lab.ts";
import type { Child } from "../../src/demo/process.ts";
import { type KubeObject, parseManifest } from "./chart.ts";
import type { ContainerOptions, Containers } from "./container.ts";
import { type Container, daemonSetOf, environmentOf } from "./daemon-set.ts";
import { runtimeDefaultSeccomp } from "./seccomp.ts";

export interface KubeletOptions {
  readonly containers: Containers;
  readonly host: LabHost;
  readonly nodeName: string;
  readonly manifest: string;
  /** What is the root of this node's host paths, and where volumes are kept. */
  readonly directory: string;
  /** Host paths that are this machine's own, in place of those below `directory`. */
  readonly real?: readonly string[];
  /** The API server's, where pods find it. */
  readonly port: number;
  readonly token: string;
  readonly ca: string;
}

/** As much of a kubelet as running a DaemonSet's pod by its manifest takes, in runc containers. */
export interface Kubelet {
  /** A host path, where it is here. */
  hostPath(path: string): string;
  /** Runs the init containers one after the other, then starts the container. @throws where one fails */
  startPod(): Promise<Child>;
}

const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount";

export function openKubelet(options: KubeletOptions): Kubelet {
  const { containers, host, nodeName, directory, real = [] } = options;
  const objects = parseManifest(options.manifest);
  const { pod } = daemonSetOf(objects);
  const hostPath = (path: string) => (real.includes(path) ? path : join(directory, "host", path));
  const volumes = new Map<string, string>();
  for (const { name, hostPath: onHost, configMap } of pod.volumes) {
    if (onHost !== undefined) volumes.set(name, prepare(hostPath(onHost.path), onHost.type));
    else if (configMap !== undefined)
      volumes.set(name, project(join(directory, "volumes", name), dataOf(objects, configMap.name)));
    else throw new Error(`volume ${name} is of a kind that is not known here`);
  }
  const account = project(join(directory, "volumes/service-account"), {
    token: options.token,
    "ca.crt": options.ca,
    namespace: "kube-flannel",
  });

  const optionsOf = (container: Container): ContainerOptions => {
    const { capabilities, privileged, readOnlyRootFilesystem } = container.securityContext;
    if (privileged || readOnlyRootFilesystem !== true || capabilities.drop?.join() !== "ALL")
      throw new Error(`container ${container.name}: not one that these containers are like`);
    const mounts = container.volumeMounts.map(({ name, mountPath }) => {
      const source = volumes.get(name);
      if (source === undefined) throw new Error(`no volume ${name}`);
      // The kubelet mounts a ConfigMap read-only, whatever the mount says.
      return [mountPath.replace(/\/$/, ""), name === "flannel-cfg" ? `${source}:ro` : source];
    });
    return {
      host,
      command: [...(container.command ?? containers.config.config.Entrypoint), ...(container.args ?? [])],
      mounts: {
        ...(Object.fromEntries(mounts) as Record<string, string>),
        [serviceAccount]: `${account}:ro`,
      },
      env: {
        KUBERNETES_SERVICE_HOST: switchAddress,
        KUBERNETES_SERVICE_PORT: `${options.port}`,
        ...environmentOf(container, { "spec.nodeName": nodeName }),
      },
      hostPid: pod.hostPID === true,
      capabilities: capabilities.add,
      seccomp: runtimeDefaultSeccomp,
      tun: "absent", // it comes with a mount, or not at all
    };
  };

  return {
    hostPath,
    async startPod() {
      for (const container of pod.initContainers) {
        const { code, errors, output } = await containers.run(optionsOf(container));
        if (code !== 0) throw new Error(`init container ${container.name}: ${code} ${output}${errors}`);
      }
      const [container] = pod.containers;
      if (container === undefined) throw new Error("no container");
      return containers.start(optionsOf(container));
    },
  };
}

function dataOf(objects: readonly KubeObject[], name: string): Readonly<Record<string, string>> {
  const found = objects.find(({ kind, metadata }) => kind === "ConfigMap" && metadata.name === name);
  if (found === undefined) throw new Error(`no ConfigMap ${name}`);
  return found["data"] as Readonly<Record<string, string>>;
}

/** A host path by its type, made as the kubelet does. */
function prepare(path: string, type = ""): string {
  switch (type) {
    case "DirectoryOrCreate":
      mkdirSync(path, { recursive: true });
      chmodSync(path, 0o755);
      return path;
    case "FileOrCreate":
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, "", { flag: "a", mode: 0o644 });
      return path;
    default:
      throw new Error(`hostPath type ${JSON.stringify(type)} is not made here`);
  }
}

/** Files behind two links, as the kubelet writes volumes so that all of them change at once. */
function project(path: string, files: Readonly<Record<string, string>>): string {
  rmSync(path, { recursive: true, force: true });
  const version = "..2026_01_01_00_00_00.123456789";
  mkdirSync(join(path, version), { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(path, version, name), content);
    symlinkSync(join("..data", name), join(path, name));
  }
  symlinkSync(version, join(path, "..data_tmp"));
  renameSync(join(path, "..data_tmp"), join(path, "..data"));
  return path;
}
