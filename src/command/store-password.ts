import { readSync } from "node:fs";
import { hashPassword, passwordBytesMax } from "../store/embedded/users.ts";
import { parseUsers } from "../store/embedded/users-file.ts";
import { type CommandInput, usage } from "./command.ts";

/** Reads a password from standard input and gives the user's line for store.embedded.users_file. */
export async function storePassword({ loaded }: CommandInput, name: string): Promise<string> {
  const role = loaded.commandFlags.get("role") ?? "member";
  if (process.stdin.isTTY) {
    process.stderr.write("The password is shown as it is typed; better: store password NAME < file\n");
  }
  const password = readPassword();
  if (password === "") throw usage("the password is empty");
  const line = `${name}:${role}:${await hashPassword(password)}\n`;
  parseUsers(line); // refuses a name or a role that the store would not take
  return line;
}

/** All of standard input; one newline at its end is ignored. */
function readPassword(): string {
  const bytes = Buffer.alloc(passwordBytesMax + 2);
  let length = 0;
  while (length < bytes.length) {
    const read = readSync(0, bytes, length, bytes.length - length, null);
    if (read === 0) break;
    length += read;
    if (process.stdin.isTTY && bytes.subarray(0, length).includes(10)) break;
  }
  const password = bytes.toString("utf8", 0, length).replace(/\r?\n$/, "");
  if (Buffer.byteLength(password) > passwordBytesMax)
    throw usage(`the password is longer than ${passwordBytesMax} bytes`);
  if (/[\r\n\0]/.test(password)) throw usage("the password has more than one line");
  return password;
}
