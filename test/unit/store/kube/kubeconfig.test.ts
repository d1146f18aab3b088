import { describe, expect, test } from "bun:test";
import { parseKubeconfig } from "../../../../src/store/kube/kubeconfig.ts";

const document = (cluster: object, user: object, more: object = {}) =>
  JSON.stringify({
    clusters: [
      { name: "other", cluster: { server: "https://192.0.2.99" } },
      { name: "c", cluster: { server: "https://192.0.2.1:6443/", ...cluster } },
    ],
    users: [{ name: "u", user }],
    contexts: [{ name: "x", context: { cluster: "c", user: "u" } }],
    "current-context": "x",
    ...more,
  });

describe("kubeconfig", () => {
  test("YAML as kubectl writes it: the current context's server, authority and credentials", () => {
    const text = `apiVersion: v1
kind: Config
current-context: x
clusters:
- cluster:
    certificate-authority-data: ${Buffer.from("CA").toString("base64")}
    server: https://[2001:db8::1]:6443/prefix/
    tls-server-name: kubernetes.default
  name: c
contexts:
- context: {cluster: c, user: u}
  name: x
users:
- name: u
  user:
    client-certificate: pki/client.crt
    client-key-data: ${Buffer.from("KEY").toString("base64")}
    tokenFile: token
`;
    expect(parseKubeconfig(text)).toEqual({
      server: "https://[2001:db8::1]:6443/prefix",
      ca: { pem: "CA" },
      serverName: "kubernetes.default",
      clientCertificate: { file: "pki/client.crt" },
      clientKey: { pem: "KEY" },
      token: undefined,
      tokenFile: "token",
      exec: undefined,
    });
  });

  test("an exec plugin with its arguments and environment", () => {
    const exec = {
      apiVersion: "client.authentication.k8s.io/v1",
      command: "bin/login",
      args: ["--now", "$(reboot)"],
      env: [{ name: "REGION", value: "north" }],
    };
    expect(parseKubeconfig(document({}, { exec })).exec).toEqual({
      apiVersion: "client.authentication.k8s.io/v1",
      command: "bin/login",
      args: ["--now", "$(reboot)"],
      env: { REGION: "north" },
    });
  });

  test.each<[text: string, reason: string]>([
    ["", "it is no mapping"],
    ["a: [", "it is not YAML"],
    ["- a", "it is no mapping"],
    ["{}", "it has no current-context"],
    ['{"current-context":"x"}', 'it has no context "x"'],
    [document({}, {}, { clusters: [] }), 'it has no cluster "c"'],
    [document({}, {}, { users: "none" }), 'it has no user "u"'],
    [document({ server: "" }, {}), "its cluster has no server"],
    [document({ server: "file:///etc/shadow" }, {}), "its server is no http:// or https:// URL"],
    [document({ server: "https://a:b@c" }, {}), "its server is no http:// or https:// URL"],
    [document({ server: 7 }, {}), "server is no text"],
    [document({ "insecure-skip-tls-verify": true }, {}), "insecure-skip-tls-verify is not supported"],
    [document({ "proxy-url": "http://p" }, {}), "proxy-url is not supported"],
    [document({}, { username: "u", password: "hunter2" }), "the user's username is not supported"],
    [document({}, { "auth-provider": { name: "gcp" } }), "the user's auth-provider is not supported"],
    [document({}, { exec: { apiVersion: "v9", command: "x" } }), "exec.apiVersion is not one of"],
    [document({}, { exec: { apiVersion: "client.authentication.k8s.io/v1" } }), "exec has no command"],
    [
      document({}, { exec: { apiVersion: "client.authentication.k8s.io/v1", command: "x", args: "a b" } }),
      "exec.args is no list of texts",
    ],
  ])("refused with the reason: %#", (text, reason) => {
    let thrown: unknown;
    try {
      parseKubeconfig(text);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({
      code: "store/kubeconfig",
      exitCode: 2,
      message: expect.stringContaining(reason),
    });
    expect(String(thrown)).not.toContain("hunter2");
  });
});
