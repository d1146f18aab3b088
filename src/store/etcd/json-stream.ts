import { EndpointFailure, notEtcd } from "./failure.ts";

/** Longest answer, and longest message of a stream, that is read: some hundred thousand leases. */
export const answerBytesMax = 64 * 1024 * 1024;

/** The whole body as JSON. @throws EndpointFailure `store/protocol` for anything else or too much */
export async function readJson(
  response: Response,
  endpoint: string,
  bytesMax = answerBytesMax,
): Promise<unknown> {
  return parseJson(await readBytes(response, endpoint, bytesMax), endpoint);
}

/** The whole body as text. @throws EndpointFailure `store/protocol` for too much */
export async function readText(response: Response, endpoint: string): Promise<string> {
  return Buffer.concat(await readBytes(response, endpoint, answerBytesMax)).toString("utf8");
}

/** The body as one JSON value a line; empty lines are skipped, a last line may lack its newline. */
export async function* readJsonLines(
  response: Response,
  endpoint: string,
  bytesMax = answerBytesMax,
): AsyncGenerator<unknown> {
  let pending: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    let from = 0;
    for (let at = chunk.indexOf(newline); at >= 0; at = chunk.indexOf(newline, from)) {
      pending.push(chunk.subarray(from, at));
      if (bytes + at - from > bytesMax) throw tooLong(endpoint, bytesMax);
      if (bytes + at - from > 0) yield parseJson(pending, endpoint);
      pending = [];
      bytes = 0;
      from = at + 1;
    }
    if (from < chunk.byteLength) pending.push(chunk.subarray(from));
    bytes += chunk.byteLength - from;
    if (bytes > bytesMax) throw tooLong(endpoint, bytesMax);
  }
  if (bytes > 0) yield parseJson(pending, endpoint);
}

const newline = 10;

async function readBytes(response: Response, endpoint: string, bytesMax: number): Promise<Uint8Array[]> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.byteLength;
    if (bytes > bytesMax) throw tooLong(endpoint, bytesMax);
    chunks.push(chunk);
  }
  return chunks;
}

function parseJson(chunks: readonly Uint8Array[], endpoint: string): unknown {
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch {
    throw new EndpointFailure({ error: notEtcd(endpoint, "its answer is not JSON"), notApplied: false });
  }
}

function tooLong(endpoint: string, bytesMax: number): EndpointFailure {
  const error = notEtcd(endpoint, `its answer is longer than ${bytesMax} bytes`);
  return new EndpointFailure({ error, notApplied: false });
}
