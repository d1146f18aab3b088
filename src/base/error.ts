/** What a log line, `--json` and a person get to know about a failure besides its message. */
export type ErrorFields = Readonly<Record<string, string | number | boolean | undefined>>;

/** Options of {@link FlannelError}. */
export interface FlannelErrorOptions {
  readonly cause?: unknown;
  /** Trying the same again may help; decided where the protocol is known. */
  readonly retryable?: boolean;
  /** What the operator can do about it, one sentence. */
  readonly remedy?: string;
  /** Exit code of a command that ends with it: 2 configuration, flags, not root; 1 anything else. */
  readonly exitCode?: 1 | 2;
}

/**
 * A failure of the world around the program. `code` ("area/what") is stable and tested, `message` is for
 * people. Answers a caller must handle are values, bugs are failed assertions; neither is a FlannelError.
 */
export class FlannelError extends Error {
  override readonly name = "FlannelError";
  readonly code: string;
  readonly fields: ErrorFields;
  readonly retryable: boolean;
  readonly remedy: string | undefined;
  readonly exitCode: 1 | 2;

  constructor(code: string, message: string, fields: ErrorFields = {}, options: FlannelErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.fields = fields;
    this.retryable = options.retryable ?? false;
    this.remedy = options.remedy;
    this.exitCode = options.exitCode ?? 1;
  }
}

/** One line: the message, its fields, the chain of causes, the remedy. Never contains a secret by itself. */
export function errorText(error: unknown): string {
  const parts: string[] = [];
  let remedy: string | undefined;
  for (let at: unknown = error, depth = 0; at !== undefined && depth < 8; depth++) {
    parts.push(at instanceof FlannelError ? withFields(at) : at instanceof Error ? at.message : String(at));
    if (at instanceof FlannelError) remedy ??= at.remedy;
    at = at instanceof Error ? at.cause : undefined;
  }
  // A wrapper that says the same as its cause says it once.
  const text = parts.filter((part, at) => part !== "" && part !== parts[at - 1]).join(": ");
  return remedy === undefined ? text : `${text}. ${remedy}`;
}

function withFields(error: FlannelError): string {
  const fields = Object.entries(error.fields).filter(([, value]) => value !== undefined);
  if (fields.length === 0) return error.message;
  return `${error.message} (${fields.map(([key, value]) => `${key}=${value}`).join(", ")})`;
}
