import type { KubeObject } from "./chart.ts";

/** A container of a pod, as far as our manifests use them. */
export interface Container {
  readonly name: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly env?: readonly EnvironmentVariable[];
  readonly ports?: readonly { readonly name: string; readonly containerPort: number }[];
  readonly livenessProbe?: Probe;
  readonly readinessProbe?: Probe;
  readonly resources?: object;
  readonly securityContext: {
    readonly privileged: boolean;
    readonly allowPrivilegeEscalation?: boolean;
    readonly readOnlyRootFilesystem?: boolean;
    readonly capabilities: { readonly drop?: readonly string[]; readonly add: readonly string[] };
  };
  readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[];
}

interface EnvironmentVariable {
  readonly name: string;
  readonly value?: string;
  readonly valueFrom?: { readonly fieldRef: { readonly fieldPath: string } };
}

interface Probe {
  readonly httpGet: { readonly path: string; readonly port: string };
}

interface Volume {
  readonly name: string;
  readonly hostPath?: { readonly path: string; readonly type?: string };
  readonly configMap?: { readonly name: string };
}

export interface Pod {
  readonly initContainers: readonly Container[];
  readonly containers: readonly Container[];
  readonly volumes: readonly Volume[];
  readonly securityContext: object;
  readonly hostPID?: boolean;
  readonly [member: string]: unknown;
}

/** A DaemonSet, and where its pods are described. */
export interface DaemonSet extends KubeObject {
  readonly spec: {
    readonly selector: object;
    readonly template: { readonly metadata: { readonly labels: object }; readonly spec: Pod };
  };
}

/** The one DaemonSet of a manifest. */
export function daemonSetOf(objects: readonly KubeObject[]) {
  const found = objects.filter(({ kind }) => kind === "DaemonSet");
  if (found.length !== 1) throw new Error(`${found.length} DaemonSets`);
  const object = found[0] as DaemonSet;
  const { template } = object.spec;
  return { object, template, pod: template.spec };
}

/** A container's environment as the kubelet makes it; `fields` of its pod by their paths. */
export function environmentOf(
  { env = [] }: Container,
  fields: Readonly<Record<string, string>>,
): Record<string, string> {
  return Object.fromEntries(
    env.map(({ name, value, valueFrom }) => {
      const text = value ?? fields[valueFrom?.fieldRef.fieldPath ?? ""];
      if (text === undefined) throw new Error(`${name} has no value`);
      return [name, text];
    }),
  );
}
