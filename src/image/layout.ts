import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";

/** What an image says of itself. */
export interface ImageDescription {
  /** As Debian and OCI name it: `amd64`, `arm64`. */
  readonly architecture: string;
  /** `NAME:VERSION`, under which it is known once it is loaded. */
  readonly reference: string;
  readonly created: Date;
  readonly labels: Readonly<Record<string, string>>;
  readonly entrypoint: readonly string[];
  readonly env: readonly string[];
}

/** A tar of files, the lower layer first. */
export interface Layer {
  readonly tar: Uint8Array;
  /** For `docker history`. */
  readonly comment: string;
}

/** A file of the layout, by its path in it. */
export interface LayoutFile {
  readonly path: string;
  readonly content: Uint8Array;
}

/**
 * The files of an OCI image layout (image-spec 1.0, image-layout.md) with one image, and beside them the
 * `manifest.json` by which `docker load` took images before version 25. The same input gives the same bytes.
 */
export function imageLayout(image: ImageDescription, layers: readonly Layer[]): LayoutFile[] {
  const created = image.created.toISOString();
  const blobs = layers.map(({ tar }) => blobOf(gzipSync(tar)));
  const config = jsonBlob({
    created,
    architecture: image.architecture,
    os: "linux",
    config: { Entrypoint: image.entrypoint, Env: image.env, WorkingDir: "/", Labels: image.labels },
    rootfs: { type: "layers", diff_ids: layers.map(({ tar }) => digestOf(tar)) },
    history: layers.map(({ comment }) => ({ created, created_by: comment })),
  });
  const manifest = jsonBlob({
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: descriptor("application/vnd.oci.image.config.v1+json", config),
    layers: blobs.map((blob) => descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob)),
    annotations: image.labels,
  });
  const [, tag = "latest"] = image.reference.split(":");
  const index = {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: [
      {
        ...descriptor("application/vnd.oci.image.manifest.v1+json", manifest),
        platform: { architecture: image.architecture, os: "linux" },
        annotations: {
          // The tag for skopeo and podman; containerd wants the whole name.
          "org.opencontainers.image.ref.name": tag,
          "io.containerd.image.name": `docker.io/library/${image.reference}`,
        },
      },
    ],
  };
  const dockerManifest = [
    { Config: config.path, RepoTags: [image.reference], Layers: blobs.map(({ path }) => path) },
  ];
  return [
    jsonFile("oci-layout", { imageLayoutVersion: "1.0.0" }),
    jsonFile("index.json", index),
    jsonFile("manifest.json", dockerManifest),
    ...[manifest, config, ...blobs].map(({ path, content }) => ({ path, content })),
  ];
}

interface Blob extends LayoutFile {
  readonly digest: string;
}

function blobOf(content: Uint8Array): Blob {
  const digest = digestOf(content);
  return { path: `blobs/${digest.replace(":", "/")}`, content, digest };
}

function jsonBlob(value: unknown): Blob {
  return blobOf(jsonFile("", value).content);
}

function jsonFile(path: string, value: unknown): LayoutFile {
  return { path, content: Buffer.from(JSON.stringify(value)) };
}

function descriptor(mediaType: string, { digest, content }: Blob) {
  return { mediaType, digest, size: content.length };
}

function digestOf(content: Uint8Array): string {
  return `sha256:${createHash("sha256").update(content).digest("hex")}`;
}
