import type { Socket } from "node:net";

/** A request, read in full. */
export interface HttpRequest {
  readonly method: string;
  readonly path: string;
  /** By lower-case name; of one that comes twice the last. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

/** Where the answer goes: one whole, or a stream of pieces. */
export interface HttpReply {
  send(status: number, contentType: string, body: string): void;
  /** Begins a stream of pieces. */
  open(contentType: string): void;
  write(piece: string): void;
  end(): void;
  /** Breaks the connection off: the client learns that the stream was not finished. */
  abort(): void;
  /** Whether the client has yet to take a good part of what was sent. */
  readonly blocked: boolean;
  /** Called when it no longer is. */
  onDrain: () => void;
  /** Called once, when the connection is gone or the answer has ended. */
  onClose: () => void;
}

export interface HttpLimits {
  readonly bodyBytesMax: number;
  /** How long a request may take to arrive once it has begun. */
  readonly requestMsMax: number;
  /** How long a connection may stay without a request. */
  readonly idleMsMax: number;
}

/** What of all connections together is held in unfinished requests. */
export interface Budget {
  bytesLeft: number;
}

const headBytesMax = 16 * 1024;
const chunkLineBytesMax = 256;
/** Requests that a client sends ahead of their answers. */
const aheadBytesMax = 64 * 1024;
/** Unsent bytes beyond which a stream waits for its client. */
const blockedBytes = 256 * 1024;

const statusTexts: Readonly<Record<number, string>> = {
  200: "OK",
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  408: "Request Timeout",
  412: "Precondition Failed",
  413: "Payload Too Large",
  431: "Request Header Fields Too Large",
  500: "Internal Server Error",
  501: "Not Implemented",
  503: "Service Unavailable",
};

/** Where a connection is within a request. */
type Reading =
  | { readonly kind: "head" }
  | { readonly kind: "sized"; left: number }
  | { readonly kind: "chunk-size" }
  | { readonly kind: "chunk"; left: number }
  | { readonly kind: "chunk-end" }
  | { readonly kind: "trailer" }
  | { readonly kind: "answering" };

/**
 * HTTP/1.1 on a socket that is connected already, one request after the other. The runtime's own server takes no
 * such socket, and does not tell how much of a stream its client has left unread.
 */
export class HttpConnection {
  readonly #socket: Socket;
  readonly #handle: (request: HttpRequest, reply: HttpReply) => void;
  readonly #limits: HttpLimits;
  readonly #budget: Budget;
  #reading: Reading = { kind: "head" };
  #unread: Buffer = Buffer.alloc(0);
  #head: { method: string; path: string; headers: Map<string, string>; keepAlive: boolean } | undefined;
  #body: Buffer[] = [];
  #bodyBytes = 0;
  #reply: Reply | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ended = false;

  constructor(
    socket: Socket,
    options: {
      readonly handle: (request: HttpRequest, reply: HttpReply) => void;
      readonly limits: HttpLimits;
      readonly budget: Budget;
    },
  ) {
    this.#socket = socket;
    this.#handle = options.handle;
    this.#limits = options.limits;
    this.#budget = options.budget;
    socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    socket.on("drain", () => this.#reply?.onDrain());
    socket.on("end", () => this.#socket.end());
    socket.on("error", () => this.#socket.destroy());
    socket.on("close", () => this.#close());
    this.#wait(this.#limits.idleMsMax);
  }

  /** Whether no request is under way. */
  get idle(): boolean {
    return this.#reading.kind === "head" && this.#unread.length === 0;
  }

  #receive(chunk: Buffer): void {
    if (this.#ended) return;
    if (this.idle) this.#wait(this.#limits.requestMsMax);
    this.#unread = this.#unread.length === 0 ? chunk : Buffer.concat([this.#unread, chunk]);
    this.#advance();
  }

  #advance(): void {
    while (!this.#ended && this.#step()) {}
  }

  /** One step within a request; whether there may be another. */
  #step(): boolean {
    const reading = this.#reading;
    switch (reading.kind) {
      case "head":
        return this.#readHead();
      case "sized":
        this.#takeBody(reading);
        if (reading.left > 0) return false;
        return this.#answer();
      case "chunk":
        this.#takeBody(reading);
        if (reading.left > 0) return false;
        this.#reading = { kind: "chunk-end" };
        return true;
      case "chunk-size":
        return this.#line((line) => this.#beginChunk(line));
      case "chunk-end":
        return this.#line((line) => {
          if (line === "") this.#reading = { kind: "chunk-size" };
          else this.#refuse(400, "malformed chunk");
        });
      case "trailer":
        return this.#line((line) => {
          if (line === "") this.#answer();
        });
      case "answering":
        if (this.#unread.length > aheadBytesMax) this.#socket.destroy();
        return false;
    }
  }

  #readHead(): boolean {
    const end = this.#unread.indexOf("\r\n\r\n");
    if (end < 0 || end > headBytesMax) {
      if (this.#unread.length > headBytesMax) this.#refuse(431, "the header is too long");
      return false;
    }
    const text = this.#unread.toString("latin1", 0, end);
    this.#unread = this.#unread.subarray(end + 4);
    const [first = "", ...lines] = text.split("\r\n");
    const [, method = "", target = "", minor = ""] = /^([A-Z]+) (\/\S*) HTTP\/1\.([01])$/.exec(first) ?? [];
    const headers = parseHeaders(lines);
    if (method === "" || headers === undefined) return this.#refuse(400, "malformed request");
    const close = /\bclose\b/i.test(headers.get("connection") ?? "");
    this.#head = { method, path: target.split("?")[0] ?? "", headers, keepAlive: minor === "1" && !close };
    return this.#beginBody(headers);
  }

  #beginBody(headers: ReadonlyMap<string, string>): boolean {
    const encoding = headers.get("transfer-encoding");
    const length = headers.get("content-length");
    // Both at once is how requests are smuggled (RFC 9112 §6.3).
    if (encoding !== undefined && (encoding.toLowerCase() !== "chunked" || length !== undefined)) {
      return this.#refuse(400, "malformed request");
    }
    if (length !== undefined && !/^\d{1,15}$/.test(length)) return this.#refuse(400, "malformed request");
    const bytes = Number(length ?? 0);
    if (bytes > this.#limits.bodyBytesMax) return this.#refuse(413, "the request is too large");
    if (headers.get("expect")?.toLowerCase() === "100-continue") {
      this.#socket.write("HTTP/1.1 100 Continue\r\n\r\n");
    }
    this.#reading = encoding === undefined ? { kind: "sized", left: bytes } : { kind: "chunk-size" };
    return true;
  }

  #beginChunk(line: string): void {
    const [, digits] = /^([0-9a-fA-F]{1,8})(?:;.*)?$/.exec(line) ?? [];
    if (digits === undefined) return void this.#refuse(400, "malformed chunk");
    const left = Number.parseInt(digits, 16);
    if (this.#bodyBytes + left > this.#limits.bodyBytesMax) {
      return void this.#refuse(413, "the request is too large");
    }
    this.#reading = left === 0 ? { kind: "trailer" } : { kind: "chunk", left };
  }

  #takeBody(reading: { left: number }): void {
    const part = this.#unread.subarray(0, reading.left);
    if (part.length === 0) return;
    this.#unread = this.#unread.subarray(part.length);
    reading.left -= part.length;
    this.#body.push(part);
    this.#bodyBytes += part.length;
    this.#budget.bytesLeft -= part.length;
    if (this.#budget.bytesLeft < 0) this.#refuse(503, "too many requests at once");
  }

  #line(take: (line: string) => void): boolean {
    const end = this.#unread.indexOf("\r\n");
    if (end < 0 || end > chunkLineBytesMax) {
      if (this.#unread.length > chunkLineBytesMax) this.#refuse(400, "malformed chunk");
      return false;
    }
    const line = this.#unread.toString("latin1", 0, end);
    this.#unread = this.#unread.subarray(end + 2);
    take(line);
    return true;
  }

  #answer(): boolean {
    const head = this.#head;
    if (head === undefined || this.#ended) return false;
    this.#reading = { kind: "answering" };
    clearTimeout(this.#timer);
    const request = { ...head, body: Buffer.concat(this.#body) };
    this.#body = [];
    const reply = new Reply(this.#socket, head.keepAlive, () => this.#next(head.keepAlive));
    this.#reply = reply;
    this.#handle(request, reply);
    return true;
  }

  /** The answer has ended. */
  #next(keepAlive: boolean): void {
    this.#releaseBudget();
    this.#reply = undefined;
    if (!keepAlive) {
      this.#ended = true;
      this.#socket.end();
      return;
    }
    this.#reading = { kind: "head" };
    this.#wait(this.#unread.length === 0 ? this.#limits.idleMsMax : this.#limits.requestMsMax);
    // Not at once: a client that sends many requests ahead must not deepen the stack.
    if (this.#unread.length > 0) setImmediate(() => this.#advance());
  }

  #refuse(status: number, reason: string): false {
    this.#ended = true;
    this.#releaseBudget();
    const reply = new Reply(this.#socket, false, () => this.#socket.end());
    reply.send(status, "text/plain; charset=utf-8", `${reason}\n`);
    // What else the client sends is not waited for.
    this.#wait(1_000);
    return false;
  }

  #wait(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#socket.destroy(), ms);
  }

  #releaseBudget(): void {
    this.#budget.bytesLeft += this.#bodyBytes;
    this.#bodyBytes = 0;
    this.#body = [];
  }

  #close(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#releaseBudget();
    this.#reply?.lost();
    this.#reply = undefined;
  }
}

class Reply implements HttpReply {
  onDrain = () => {};
  onClose = () => {};
  readonly #socket: Socket;
  readonly #keepAlive: boolean;
  readonly #done: () => void;
  #ended = false;

  constructor(socket: Socket, keepAlive: boolean, done: () => void) {
    this.#socket = socket;
    this.#keepAlive = keepAlive;
    this.#done = done;
  }

  get blocked(): boolean {
    return this.#socket.writableLength > blockedBytes;
  }

  send(status: number, contentType: string, body: string): void {
    if (this.#ended) return;
    const bytes = Buffer.from(body);
    const head = this.#headText(status, contentType, `content-length: ${bytes.length}`);
    this.#socket.write(Buffer.concat([Buffer.from(head), bytes]));
    this.#finish();
  }

  open(contentType: string): void {
    if (!this.#ended) this.#socket.write(this.#headText(200, contentType, "transfer-encoding: chunked"));
  }

  write(piece: string): void {
    if (this.#ended) return;
    this.#socket.write(`${Buffer.byteLength(piece).toString(16)}\r\n${piece}\r\n`);
  }

  end(): void {
    if (this.#ended) return;
    this.#socket.write("0\r\n\r\n");
    this.#finish();
  }

  abort(): void {
    this.#socket.destroy();
  }

  /** The connection is gone. */
  lost(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.onClose();
  }

  #finish(): void {
    this.#ended = true;
    this.onClose();
    this.#done();
  }

  #headText(status: number, contentType: string, framing: string): string {
    const connection = this.#keepAlive ? "" : "connection: close\r\n";
    return `HTTP/1.1 ${status} ${statusTexts[status] ?? "Error"}\r\ncontent-type: ${contentType}\r\n${connection}${framing}\r\n\r\n`;
  }
}

/** undefined for what is no header. */
function parseHeaders(lines: readonly string[]): Map<string, string> | undefined {
  const headers = new Map<string, string>();
  for (const line of lines) {
    const [, name, value = ""] = /^([!#$%&'*+.^_`|~\w-]+):[ \t]*(.*?)[ \t]*$/.exec(line) ?? [];
    if (name === undefined) return undefined;
    const lower = name.toLowerCase();
    // Two lengths are no length (RFC 9112 §6.3).
    if (lower === "content-length" && headers.has(lower) && headers.get(lower) !== value) return undefined;
    headers.set(lower, value);
  }
  return headers;
}
