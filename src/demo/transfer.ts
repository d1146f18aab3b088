import { connect, createServer } from "node:net";

/** What one transfer moved, counted by the receiver. */
export interface TransferResult {
  readonly bytes: number;
  readonly ms: number;
  /** Whether every byte was the one sent: TCP's checksum alone would miss what an engine miscounts. */
  readonly intact: boolean;
}

/** The sender repeats this; its length is odd so that no segment size divides it. */
const patternBytes = 1_000_003;

/** Receives one transfer on `address` and returns; calls `onListening` once it can be reached. */
export function receiveTransfer(
  address: string,
  port: number,
  onListening: () => void,
): Promise<TransferResult> {
  const pattern = makePattern();
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      let bytes = 0;
      let intact = true;
      let startedAt = 0;
      socket.on("data", (chunk) => {
        if (bytes === 0) startedAt = performance.now();
        intact &&= matches(Buffer.from(chunk), pattern, bytes);
        bytes += chunk.length;
      });
      socket.on("end", () => {
        socket.end();
        server.close();
        resolve({ bytes, ms: performance.now() - startedAt, intact });
      });
      socket.on("error", reject);
    });
    server.on("error", reject);
    server.listen(port, address, onListening);
  });
}

/** Sends for `durationMs`, then waits until the receiver has taken it all. */
export function sendTransfer(
  local: string,
  address: string,
  port: number,
  durationMs: number,
): Promise<void> {
  const pattern = makePattern();
  return new Promise((resolve, reject) => {
    const socket = connect({ localAddress: local, host: address, port });
    socket.on("error", reject);
    socket.on("close", () => resolve());
    socket.resume();
    socket.on("connect", () => {
      const deadline = performance.now() + durationMs;
      const write = () => {
        do {
          if (performance.now() >= deadline) return void socket.end();
        } while (socket.write(pattern));
        socket.once("drain", write);
      };
      write();
    });
  });
}

function makePattern(): Buffer {
  const pattern = Buffer.alloc(patternBytes);
  let state = 0x9e3779b9;
  for (let at = 0; at < patternBytes; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    pattern[at] = state >>> 24;
  }
  return pattern;
}

function matches(chunk: Buffer, pattern: Buffer, offset: number): boolean {
  for (let done = 0; done < chunk.length;) {
    const at = (offset + done) % patternBytes;
    const length = Math.min(chunk.length - done, patternBytes - at);
    if (chunk.compare(pattern, at, at + length, done, done + length) !== 0) return false;
    done += length;
  }
  return true;
}
