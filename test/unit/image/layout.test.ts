import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { gunzipSync } from "node:zlib";
import { imageLayout } from "../../../src/image/layout.ts";

const image = {
  architecture: "amd64",
  reference: "flannel-lite:0.1.0",
  created: new Date("2026-01-02T03:04:05Z"),
  labels: { "org.opencontainers.image.title": "flannel-lite" },
  entrypoint: ["/usr/local/bin/flannel-lite"],
  env: ["PATH=/bin"],
};
const layers = [
  { tar: Buffer.from("lower"), comment: "Debian" },
  { tar: Buffer.from("upper"), comment: "flannel-lite" },
];

const sha256 = (content: Uint8Array) => createHash("sha256").update(content).digest("hex");

/** A layout read as a registry's client does: from the index, by digests and sizes alone. */
function open() {
  const files = new Map(imageLayout(image, layers).map(({ path, content }) => [path, content]));
  const json = (path: string) => JSON.parse(new TextDecoder().decode(files.get(path)));
  const blob = ({ digest, size }: { digest: string; size: number }) => {
    const content = files.get(`blobs/${digest.replace(":", "/")}`);
    if (content?.length !== size) throw new Error(`${digest} is no blob of ${size} bytes`);
    return content;
  };
  return { files, json, blob };
}

test("image layout: index, manifest, configuration and layers lead to each other by digest and size", () => {
  const { files, json, blob } = open();
  for (const [path, content] of files)
    if (path.startsWith("blobs/")) expect(path).toBe(`blobs/sha256/${sha256(content)}`);
  expect(json("oci-layout")).toEqual({ imageLayoutVersion: "1.0.0" });
  const [entry] = json("index.json").manifests;
  expect(entry.platform).toEqual({ architecture: "amd64", os: "linux" });
  expect(entry.annotations).toEqual({
    "org.opencontainers.image.ref.name": "0.1.0",
    "io.containerd.image.name": "docker.io/library/flannel-lite:0.1.0",
  });
  const manifest = JSON.parse(blob(entry).toString());
  const unpacked = manifest.layers.map((layer: { digest: string; size: number }) => gunzipSync(blob(layer)));
  expect(unpacked.map(String)).toEqual(["lower", "upper"]);
  const config = JSON.parse(blob(manifest.config).toString());
  expect(config.rootfs).toEqual({
    type: "layers",
    diff_ids: unpacked.map((tar: Uint8Array) => `sha256:${sha256(tar)}`),
  });
  expect(config.config.Entrypoint).toEqual(image.entrypoint);
  expect(config.config.Labels).toEqual(image.labels);
  expect(config.history).toHaveLength(layers.length);
  expect(config.created).toBe("2026-01-02T03:04:05.000Z");
});

test("image layout: an older docker load finds the same configuration and layers", () => {
  const { files, json, blob } = open();
  const [docker] = json("manifest.json");
  expect(docker.RepoTags).toEqual(["flannel-lite:0.1.0"]);
  const manifest = JSON.parse(blob(json("index.json").manifests[0]).toString());
  const pathOf = ({ digest }: { digest: string }) => `blobs/${digest.replace(":", "/")}`;
  expect(docker.Config).toBe(pathOf(manifest.config));
  expect(docker.Layers).toEqual(manifest.layers.map(pathOf));
  expect(docker.Layers.every((path: string) => files.has(path))).toBe(true);
});

test("image layout: the same input gives the same bytes", () => {
  const digests = () => imageLayout(image, layers).map(({ path, content }) => [path, sha256(content)]);
  expect(digests()).toEqual(digests());
});
