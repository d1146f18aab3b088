import { join } from "node:path";
import manifest from "../../package.json" with { type: "json" };
import { version } from "../version.ts";
import { imageLayout } from "./layout.ts";

// Run by `make image`: bun src/image/write-image.ts DIRECTORY ARCHITECTURE BASE.tar PROGRAM.tar, with SOURCE_DATE_EPOCH
// and, where they are known, IMAGE_SOURCE and IMAGE_REVISION in the environment.
const [directory, architecture, base, program] = process.argv.slice(2);
if (directory === undefined || architecture === undefined || base === undefined || program === undefined)
  throw new Error("usage: write-image.ts DIRECTORY ARCHITECTURE BASE.tar PROGRAM.tar");

const created = new Date(Number(process.env["SOURCE_DATE_EPOCH"] ?? 0) * 1000);
const { IMAGE_SOURCE: source = "", IMAGE_REVISION: revision = "" } = process.env;
const title = {
  title: "flannel-lite",
  description: manifest.description,
  version,
  licenses: manifest.license,
  created: created.toISOString(),
  ...(source === "" ? {} : { source }),
  ...(revision === "" ? {} : { revision }),
};

const files = imageLayout(
  {
    architecture,
    reference: `flannel-lite:${version}`,
    created,
    labels: Object.fromEntries(
      Object.entries(title).map(([key, value]) => [`org.opencontainers.image.${key}`, value]),
    ),
    entrypoint: ["/usr/local/bin/flannel-lite"],
    env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
  },
  [
    { tar: await Bun.file(base).bytes(), comment: "Debian: libc, nftables, iptables, iproute2, busybox" },
    { tar: await Bun.file(program).bytes(), comment: "flannel-lite" },
  ],
);
for (const { path, content } of files) await Bun.write(join(directory, path), content);
