import { validate as daemonSet } from "kubernetes-models/_schemas/IoK8sApiAppsV1DaemonSet";
import { validate as configMap } from "kubernetes-models/_schemas/IoK8sApiCoreV1ConfigMap";
import { validate as namespace } from "kubernetes-models/_schemas/IoK8sApiCoreV1Namespace";
import { validate as secret } from "kubernetes-models/_schemas/IoK8sApiCoreV1Secret";
import { validate as serviceAccount } from "kubernetes-models/_schemas/IoK8sApiCoreV1ServiceAccount";
import { validate as clusterRole } from "kubernetes-models/_schemas/IoK8sApiRbacV1ClusterRole";
import { validate as clusterRoleBinding } from "kubernetes-models/_schemas/IoK8sApiRbacV1ClusterRoleBinding";
import type { KubeObject } from "./chart.ts";

const validators: Readonly<Record<string, (data: unknown) => boolean>> = {
  "apps/v1 DaemonSet": daemonSet,
  "v1 ConfigMap": configMap,
  "v1 Namespace": namespace,
  "v1 Secret": secret,
  "v1 ServiceAccount": serviceAccount,
  "rbac.authorization.k8s.io/v1 ClusterRole": clusterRole,
  "rbac.authorization.k8s.io/v1 ClusterRoleBinding": clusterRoleBinding,
};

/**
 * What the Kubernetes API's types have against an object: values of the wrong type, members that are missing, and those
 * that it has no such member as (an API server drops them without a word).
 */
export function schemaProblems(object: KubeObject): string[] {
  const validate = validators[`${object.apiVersion} ${object.kind}`];
  if (validate === undefined) return [`no type ${object.apiVersion} ${object.kind}`];
  const looked = new Set<string>();
  const isValid = validate(observed(object, "", looked));
  const errors = (Reflect.get(validate, "errors") ?? []) as { instancePath: string; message?: string }[];
  return [
    ...(isValid ? [] : errors.map(({ instancePath, message }) => `${instancePath} ${message ?? "is wrong"}`)),
    ...pathsOf(object, "").flatMap((path) => (looked.has(path) ? [] : [`${path} is no member of the type`])),
  ];
}

/** The same value; notes the path of each member that is looked at. A validator looks at those it knows. */
function observed(value: unknown, path: string, looked: Set<string>): unknown {
  if (typeof value !== "object" || value === null) return value;
  return new Proxy(value, {
    get(target, key) {
      const member: unknown = Reflect.get(target, key);
      if (typeof key !== "string") return member;
      looked.add(`${path}/${key}`);
      return observed(member, `${path}/${key}`, looked);
    },
  });
}

/** Of all members, at every depth. */
function pathsOf(value: unknown, path: string): string[] {
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, member]) => [
    `${path}/${key}`,
    ...pathsOf(member, `${path}/${key}`),
  ]);
}
