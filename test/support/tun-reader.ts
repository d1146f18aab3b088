import { openAddon } from "../../src/native/addon.ts";

/** Holds the TUN named on the command line until it is killed. */
const tun = openAddon().openTun(Bun.argv[2] ?? "");
process.stdout.write("attached\n");
while ((await tun.read()) !== null);
