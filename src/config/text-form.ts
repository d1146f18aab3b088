/**
 * How the text of a flag or an environment variable becomes the value that the same option would have in
 * TOML. The rules and the words of the refusals are those of Go's `flag` package.
 */
export interface TextForm {
  /** What `--help` calls the value. */
  readonly label: "string" | "int" | "bool" | "list" | "json";
  /** A boolean flag takes no separate argument. */
  readonly isBool: boolean;
  /** Each occurrence adds to a list; otherwise the last one wins. */
  readonly collects: boolean;
  parse(text: string): FormResult;
}

export type FormResult = { readonly raw: unknown } | { readonly refused: string };

/** The text as it is. */
export const stringForm: TextForm = single("string", (text) => ({ raw: text }));

/** Go's integer: base prefixes and `_` between digits. */
export const intForm: TextForm = single("int", (text) => {
  const value = goInteger(text);
  if (value === undefined) return { refused: "parse error" };
  return value === BigInt.asIntN(64, value) ? { raw: Number(value) } : { refused: "value out of range" };
});

export const boolForm: TextForm = {
  label: "bool",
  isBool: true,
  collects: false,
  parse: (text) => {
    const raw = goBoolean(text);
    return raw === undefined ? { refused: "parse error" } : { raw };
  },
};

/** One entry of a list that repeats collect; commas belong to the entry. */
export const repeatedForm: TextForm = {
  label: "list",
  isBool: false,
  collects: true,
  parse: (text) => ({ raw: text === "" ? [] : [text] }),
};

/** A whole list with commas between its entries. */
export const commaForm: TextForm = single("list", (text) => ({
  raw: text.split(",").map((entry) => entry.trim()),
}));

export const jsonForm: TextForm = single("json", (text) => {
  try {
    return { raw: JSON.parse(text) as unknown };
  } catch {
    return { refused: "not JSON" };
  }
});

/** klog's verbosity as a log level: 0 says what changed, from 1 on details follow. */
export const verbosityForm: TextForm = single("int", (text) => {
  if (!/^[+-]?\d+$/.test(text)) {
    return { refused: `strconv.ParseInt: parsing ${JSON.stringify(text)}: invalid syntax` };
  }
  const value = BigInt(text.replace("+", ""));
  if (value !== BigInt.asIntN(32, value)) {
    return { refused: `strconv.ParseInt: parsing ${JSON.stringify(text)}: value out of range` };
  }
  return { raw: value >= 1n ? "debug" : "info" };
});

/** flanneld's choice between its two stores, as a kind of store. */
export const kubeSubnetManagerForm: TextForm = {
  label: "bool",
  isBool: true,
  collects: false,
  parse: (text) => {
    const isKubernetes = goBoolean(text);
    return isKubernetes === undefined
      ? { refused: "parse error" }
      : { raw: isKubernetes ? "kubernetes" : "etcd" };
  },
};

/** klog's levels by file; only looked at for mistakes. */
export const vmoduleForm: TextForm = single("string", (text) =>
  text.split(",").every((entry) => entry === "" || /^[^=]+=\d{1,9}$/.test(entry))
    ? { raw: text }
    : { refused: "syntax error: expect comma-separated list of filename=N" },
);

/** klog's place in the source; only looked at for mistakes. */
export const backtraceForm: TextForm = single("string", (text) =>
  text === "" || /^[^:]*\.[^:]*:0*[1-9]\d{0,8}$/.test(text)
    ? { raw: text }
    : { refused: "syntax error: expect file.go:234" },
);

/** The words Go takes for a boolean; undefined for any other. */
export function goBoolean(text: string): boolean | undefined {
  if (["1", "t", "T", "true", "TRUE", "True"].includes(text)) return true;
  if (["0", "f", "F", "false", "FALSE", "False"].includes(text)) return false;
  return undefined;
}

/** Longest integer text read, in characters; no number of 64 bits is longer, leading zeros aside. */
const integerCharsMax = 128;

/** What Go's `strconv.ParseInt(text, 0, 64)` reads, before its range check. */
function goInteger(text: string): bigint | undefined {
  if (text.length > integerCharsMax) return undefined;
  const [, sign, digits = ""] = /^([+-]?)(.*)$/s.exec(text) ?? [];
  const isNumber = /^(0[xX](_?[\da-fA-F])+|0[bB](_?[01])+|0[oO]?(_?[0-7])+|0|[1-9](_?\d)*)$/.test(digits);
  if (!isNumber) return undefined;
  const plain = digits.replaceAll("_", "").toLowerCase();
  const value = BigInt(/^0\d/.test(plain) ? `0o${plain}` : plain);
  return sign === "-" ? -value : value;
}

function single(label: TextForm["label"], parse: TextForm["parse"]): TextForm {
  return { label, isBool: false, collects: false, parse };
}
