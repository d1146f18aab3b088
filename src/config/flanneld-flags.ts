import { backtraceForm, boolForm, intForm, type TextForm, vmoduleForm } from "./text-form.ts";

/** flanneld's flags, of any release, that are taken and change nothing here. */
export const flanneldFlagsWithoutEffect: readonly {
  readonly name: string;
  readonly form: TextForm;
  /** Why there is nothing to set; for the warning. */
  readonly reason: string;
}[] = [
  {
    name: "iptables-resync",
    form: intForm,
    reason: "rules are repaired as soon as somebody changes them, not on a timer",
  },
  {
    name: "vmodule",
    form: vmoduleForm,
    reason: "the log has one level for all parts of the program: log.level, or -v",
  },
  {
    name: "log_backtrace_at",
    form: backtraceForm,
    reason: "it names lines of flanneld's source, and this is another program",
  },
  {
    name: "use-multi-cluster-cidr",
    form: boolForm,
    reason: "it belongs to the Kubernetes store of flannel 0.21 and 0.22",
  },
];

const logging = "flanneld refuses it too: the log goes to standard error, and only -v is there";
const clientServer = "flannel 0.8 dropped the client and server mode it belongs to";

/** Flags that people still pass to flanneld although no release of today takes them, and what to say of each. */
export const flanneldFlagsGone: ReadonlyMap<string, string> = new Map([
  ...[
    "add_dir_header",
    "alsologtostderr",
    "log_dir",
    "log_file",
    "log_file_max_size",
    "logtostderr",
    "one_output",
    "skip_headers",
    "skip_log_headers",
    "stderrthreshold",
  ].map((name) => [name, logging] as const),
  ...[
    "listen",
    "networks",
    "remote",
    "remote-cafile",
    "remote-certfile",
    "remote-keyfile",
    "watch-networks",
  ].map((name) => [name, clientServer] as const),
]);

/** Names that are flags but no variables, in flanneld as here. */
export const variablesGone: ReadonlyMap<string, string> = new Map([
  ["version", "only the flag -version prints the version"],
  ...flanneldFlagsGone,
]);
