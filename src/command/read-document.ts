import { FlannelError } from "../base/error.ts";

/** Longest document read. */
const bytesMax = 1024 * 1024;

/** The text of a file, `-` for standard input. @throws FlannelError `network/unreadable` */
export async function readDocument(path: string): Promise<string> {
  try {
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    const stream = path === "-" ? Bun.stdin.stream() : Bun.file(path).stream();
    for await (const chunk of stream) {
      bytes += chunk.byteLength;
      if (bytes > bytesMax) throw new Error(`longer than ${bytesMax} bytes`);
      chunks.push(chunk);
    }
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  } catch (cause) {
    throw new FlannelError(
      "network/unreadable",
      "cannot read the document",
      { path },
      { cause, exitCode: 2 },
    );
  }
}
