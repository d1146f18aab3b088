/** Error codes of the CNI specification (1.1.0, "Error"), and flannel's for everything of its own. */
export const cniErrors = {
  incompatibleVersion: 1,
  unknownContainer: 3,
  invalidEnvironment: 4,
  io: 5,
  decoding: 6,
  invalidConfig: 7,
  invalidNetns: 8,
  tryAgainLater: 11,
  notAvailable: 50,
  other: 999,
} as const;

/** What a runtime gets to know about a failure: a code, a message, and more for people. */
export class CniError extends Error {
  override readonly name = "CniError";
  readonly code: number;
  readonly details: string | undefined;

  constructor(code: number, message: string, details?: string) {
    super(message);
    this.code = code;
    this.details = details;
  }
}

/** As the stock plugin prints it on standard output. */
export function cniErrorText(error: unknown): string {
  const { code, message, details } = error instanceof CniError ? error : otherError(error);
  return `${JSON.stringify({ code, msg: message, ...(details && { details }) }, null, 4)}\n`;
}

function otherError(error: unknown): CniError {
  return new CniError(cniErrors.other, error instanceof Error ? error.message : String(error));
}
