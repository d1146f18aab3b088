import { version } from "../version.ts";
import { bench, benchFlags } from "./bench.ts";
import { checkFlags, checkOutput, lookAtUplink } from "./check.ts";
import { cleanup } from "./cleanup.ts";
import { type Command, jsonFlag, usage } from "./command.ts";
import { dockerOpts, dockerOptsProgram } from "./docker-opts.ts";
import { type DemoEngine, demo, demoEngines } from "./demo.ts";
import { type DemoStore, demoStores } from "../demo/store.ts";
import { fromFlannelFlags, planFromFlannel } from "./from-flannel.ts";
import { install } from "./install.ts";
import { installConf, installConfProgram } from "./install-conf.ts";
import { leases, leasesFlags, leasesWords } from "./leases.ts";
import { network, networkFlags, networkWords } from "./network.ts";
import { plan } from "./plan.ts";
import { reload } from "./reload.ts";
import { run, runFlags } from "./run.ts";
import { status } from "./status.ts";
import { store, storeFlags, storeWords } from "./store.ts";

const hostsMax = 100;

/** All subcommands; the first is the one that needs no name. */
export const commands: readonly Command[] = [
  {
    name: "run",
    doc: "Take a lease and carry packets until SIGTERM.",
    flags: runFlags,
    abandonable: true,
    async run(input) {
      await run(input);
      return { output: "" };
    },
  },
  {
    name: "check",
    doc: "Print every effective setting, where it comes from, and the interface it chooses here; touch nothing.",
    flags: checkFlags,
    run: async ({ loaded, stop }) => ({
      output: checkOutput(loaded, await lookAtUplink(loaded.config, stop)),
    }),
  },
  {
    name: "plan",
    doc: "Print what a start would change on this host; change nothing.",
    flags: [jsonFlag, ...fromFlannelFlags],
    run: async (input) =>
      isSet(input.loaded, "from-flannel")
        ? await planFromFlannel(input)
        : { output: await plan(input.loaded.config, { json: isSet(input.loaded, "json") }, input.stop) },
  },
  {
    name: "status",
    doc: "Print what the running daemon holds, sees and counts.",
    flags: [jsonFlag],
    run: async ({ loaded }) => ({ output: await status(loaded.config, { json: isSet(loaded, "json") }) }),
  },
  {
    name: "reload",
    doc: "Have the running daemon read its configuration again; print what it applied and what takes a restart.",
    flags: [jsonFlag],
    run: ({ loaded }) => reload(loaded.config, { json: isSet(loaded, "json") }),
  },
  {
    name: "leases",
    doc: "List the leases in the store, reserve a subnet for a gateway that cannot renew one, or release one.",
    words: leasesWords,
    flags: leasesFlags,
    run: async (input) => ({ output: await leases(input) }),
  },
  {
    name: "network",
    doc: "Print the network configuration in the store, set it once it is checked, or copy a network from etcd's API v2 to v3.",
    words: networkWords,
    flags: networkFlags,
    run: async (input) => ({ output: await network(input) }),
  },
  {
    name: "store",
    doc: "Keep leases here for a site without etcd, answering as etcd does; certificates, users, backups, moving out.",
    words: storeWords,
    flags: storeFlags,
    abandonable: true,
    run: async (input) => ({ output: await store(input) }),
  },
  {
    name: "cleanup",
    doc: "Remove the devices, routes, firewall rules and files a stopped daemon left; nothing of others.",
    flags: [jsonFlag],
    run: async ({ loaded }) => ({ output: await cleanup(loaded.config, { json: isSet(loaded, "json") }) }),
  },
  {
    name: "docker-opts",
    doc: `Write Docker's options from subnet.env; takes what ${dockerOptsProgram} takes, and is it under that name.`,
    unconfigured: true,
    flags: [],
    ownSyntax: dockerOpts,
    run: async () => ({ output: "" }),
  },
  {
    name: "cni",
    doc: "Be the CNI plugin, as under the name flannel: CNI_COMMAND and standard input say what to do.",
    unconfigured: true,
    flags: [],
    ownSyntax: async (_program, _argv, env) => await (await import("../cni/plugin.ts")).cniProgram(env),
    run: async () => ({ output: "" }),
  },
  {
    name: "install",
    doc: "install systemd: write the unit that runs this program; install cni: put the CNI plugin and its configuration in place; -help tells their flags.",
    unconfigured: true,
    flags: [],
    ownSyntax: install,
    run: async () => ({ output: "" }),
  },
  {
    name: installConfProgram,
    doc: "Copy a file at once: the program of that name in flannel's image, for manifests that call it.",
    unconfigured: true,
    flags: [],
    async ownSyntax(_program, argv) {
      installConf(argv);
      return 0;
    },
    run: async () => ({ output: "" }),
  },
  {
    name: "demo",
    doc: "Join hosts in network namespaces by an overlay, measure every pair, remove everything.",
    unconfigured: true,
    flags: [
      jsonFlag,
      { name: "nodes", isBool: false, doc: "Number of hosts, 2 to 100; 3 where -engines does not tell." },
      {
        name: "engines",
        isBool: false,
        doc: `Engine of each host, comma list of ${demoEngines.join(", ")}.`,
      },
      {
        name: "store",
        isBool: false,
        doc: `Where leases are kept: ${demoStores.join(" (the default) or ")}.`,
      },
      { name: "hold", isBool: true, doc: "Keep everything running until Ctrl-C." },
    ],
    async run({ loaded, stop }) {
      const engines = demoHosts(loaded.commandFlags.get("nodes"), loaded.commandFlags.get("engines"));
      const { output, ok } = await demo(
        {
          engines,
          store: demoStore(loaded.commandFlags.get("store")),
          json: isSet(loaded, "json"),
          hold: isSet(loaded, "hold"),
        },
        stop,
      );
      return { output, exitCode: ok ? 0 : 1 };
    },
  },
  {
    name: "bench",
    doc: "Measure the engines against the kernel's in network namespaces; remove everything.",
    unconfigured: true,
    flags: benchFlags,
    run: ({ loaded, stop }) => bench(loaded.commandFlags, stop),
  },
  {
    name: "version",
    doc: "Print the version.",
    unconfigured: true,
    flags: [],
    run: async () => ({ output: `flannel-lite ${version}\n` }),
  },
];

function isSet(loaded: Parameters<Command["run"]>[0]["loaded"], flag: string): boolean {
  return loaded.commandFlags.get(flag) === "true";
}

/** @throws FlannelError `config/invalid` */
function demoHosts(nodesText: string | undefined, enginesText: string | undefined): DemoEngine[] {
  const names = enginesText === undefined || enginesText === "" ? [] : enginesText.split(",");
  const unknown = names.find((name) => !demoEngines.some((engine) => engine === name));
  if (unknown !== undefined)
    throw usage(`-engines: ${JSON.stringify(unknown)} is none of ${demoEngines.join(", ")}`);
  const nodes =
    nodesText === undefined ? Math.max(names.length, names.length === 0 ? 3 : 2) : Number(nodesText);
  if (!Number.isInteger(nodes) || nodes < 2 || nodes > hostsMax)
    throw usage(`-nodes must be from 2 to ${hostsMax}`);
  if (names.length > nodes) throw usage(`-engines names ${names.length} engines for ${nodes} hosts`);
  return Array.from(
    { length: nodes },
    (_, at) => demoEngines.find((engine) => engine === names[at]) ?? "auto",
  );
}

/** @throws FlannelError `config/invalid` */
function demoStore(text: string = demoStores[0]): DemoStore {
  const store = demoStores.find((name) => name === text);
  if (store === undefined)
    throw usage(`-store: ${JSON.stringify(text)} is neither of ${demoStores.join(", ")}`);
  return store;
}
