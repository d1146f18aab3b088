import { notKubernetes } from "./failure.ts";

const newline = 10;

/** The whole body as JSON. @throws FlannelError `store/protocol` for anything else or too much */
export async function readBody(response: Response, bytesMax: number): Promise<unknown> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.byteLength;
    if (bytes > bytesMax) throw tooLong(bytesMax);
    chunks.push(chunk);
  }
  return parse(chunks);
}

/** The body as one JSON value a line; a last line that lacks its newline was cut off and is dropped. */
export async function* readLines(response: Response, bytesMax: number): AsyncGenerator<unknown> {
  let pending: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    let from = 0;
    for (let at = chunk.indexOf(newline); at >= 0; at = chunk.indexOf(newline, from)) {
      pending.push(chunk.subarray(from, at));
      bytes += at - from;
      if (bytes > bytesMax) throw tooLong(bytesMax);
      if (bytes > 0) yield parse(pending);
      pending = [];
      bytes = 0;
      from = at + 1;
    }
    if (from < chunk.byteLength) pending.push(chunk.subarray(from));
    bytes += chunk.byteLength - from;
    if (bytes > bytesMax) throw tooLong(bytesMax);
  }
}

function parse(chunks: readonly Uint8Array[]): unknown {
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch {
    throw notKubernetes("its answer is not JSON");
  }
}

function tooLong(bytesMax: number): Error {
  return notKubernetes(`its answer is longer than ${bytesMax} bytes`);
}
