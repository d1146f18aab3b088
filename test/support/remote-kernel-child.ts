// Runs inside a network namespace: one JSON call a line in, one JSON answer a line out.
import { readdirSync, readlinkSync } from "node:fs";
import { FlannelError } from "../../src/base/error.ts";
import { openAddon } from "../../src/native/addon.ts";
import type { Kernel } from "../../src/native/ports.ts";

interface Call {
  readonly id: number;
  readonly method: string;
  readonly args: readonly unknown[];
}

const addon = openAddon();
let kernel: Kernel | undefined;

for await (const line of console) {
  if (line !== "") void answer(JSON.parse(line) as Call);
}

async function answer({ id, method, args }: Call): Promise<void> {
  let reply: object;
  try {
    reply = { id, result: (await perform(method, args)) ?? null };
  } catch (error) {
    const { code, message, fields } = error instanceof FlannelError ? error : unexpected(error);
    reply = { id, error: { code, message, fields } };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}

async function perform(method: string, args: readonly unknown[]): Promise<unknown> {
  if (method === "open") kernel = await addon.openKernel();
  else if (method === "sockets") return openSockets();
  else {
    const member: unknown = kernel === undefined ? undefined : Reflect.get(kernel, method);
    if (typeof member !== "function") throw new Error(`no method ${method}`);
    return await Reflect.apply(member, kernel, args);
  }
  return undefined;
}

function openSockets(): number {
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith("socket:");
    } catch {
      return false; // the descriptor of the listing itself
    }
  }).length;
}

function unexpected(error: unknown): { code: string; message: string; fields: object } {
  return { code: "unexpected", message: String(error), fields: {} };
}
