import { receiveTransfer, sendTransfer } from "../demo/transfer.ts";

/** The demo's own programs, run inside its namespaces; not part of the command line's contract. */
export const transferCommands: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = {
  "transfer-receive": async ([address = "", port = ""]) => {
    const result = await receiveTransfer(address, Number(port), () => process.stdout.write("listening\n"));
    process.stdout.write(`${JSON.stringify(result)}\n`);
  },
  "transfer-send": ([local = "", address = "", port = "", durationMs = ""]) =>
    sendTransfer(local, address, Number(port), Number(durationMs)),
};
