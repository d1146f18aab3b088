/**
 * The test API server with a cluster of many nodes, for the bench: `kube-nodes ADDRESS PORT NODES`. Each node is as
 * large as a kubelet makes it: it lists 50 images (nodeStatusMaxImages), which is most of its 12 KB.
 */
import { startKubeApi } from "./kube-api.ts";

const [hostname = "", port = "", count = ""] = process.argv.slice(2);
const hex = (byte: number) => byte.toString(16).padStart(2, "0");
const imagesOfNode = 50;

const api = startKubeApi({ hostname, port: Number(port), bookmarkMs: 1_000 });
for (let at = 0; at < Number(count); at++) {
  api.createNode({
    name: `node-${at}`,
    podCidrs: [`100.${64 + (at >> 8)}.${at & 0xff}.0/24`],
    ...(at === 0 ? {} : { annotations: annotationsOf(at) }),
    images: Array.from({ length: imagesOfNode }, (_, image) => imageOf(at * imagesOfNode + image)),
  });
}
process.stdout.write("listening\n");

function annotationsOf(at: number): Record<string, string> {
  const prefix = "flannel.alpha.coreos.com";
  const mac = `0e:2a:00:00:${hex(at >> 8)}:${hex(at & 0xff)}`;
  return {
    [`${prefix}/backend-type`]: "vxlan",
    [`${prefix}/backend-data`]: JSON.stringify({ VNI: 1, VtepMAC: mac }),
    [`${prefix}/kube-subnet-manager`]: "true",
    [`${prefix}/public-ip`]: `10.78.${at >> 8}.${at & 0xff}`,
  };
}

function imageOf(number: number): { names: string[]; sizeBytes: number } {
  const digest = new Bun.CryptoHasher("sha256").update(`${number}`).digest("hex");
  const name = `registry.eu-central-1.example.net/team-${number % 7}/service-${number % 97}`;
  return {
    names: [`${name}@sha256:${digest}`, `${name}:v1.${number % 40}.0`],
    sizeBytes: 100_000_000 + number,
  };
}
