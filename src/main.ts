import { basename } from "node:path";

// Both are loaded when they are needed: a pod waits for the CNI plugin, and the rest takes thrice its time.
if (isCniPlugin(basename(process.argv0), process.argv[2])) {
  const { cniProgram } = await import("./cni/plugin.ts");
  process.exit(await cniProgram(process.env));
}
const { program } = await import("./command/program.ts");
process.exit(await program(process.argv0, process.argv.slice(2), (code) => process.exit(code)));

/**
 * Under the name `flannel` it is the plugin, as runtimes start it: without a word behind the name. Under any other
 * where a runtime says what to do, which wants anything but a daemon.
 */
function isCniPlugin(name: string, word: string | undefined): boolean {
  if (name === "flannel") return word === undefined;
  if (name === "flanneld" || name === "mk-docker-opts.sh") return false;
  return word === "cni" || (word === undefined && (process.env["CNI_COMMAND"] ?? "") !== "");
}
