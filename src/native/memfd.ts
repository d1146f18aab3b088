import { dlopen, FFIType, ptr } from "bun:ffi";
import { writeSync } from "node:fs";

const MFD_CLOEXEC = 0x1;
const MFD_EXEC = 0x10;

/**
 * Loads a Node-API addon from its bytes without touching a file system: on a read-only, full or
 * noexec /tmp it works all the same, and it leaves no file behind.
 *
 * The descriptor stays open for the life of the process: dlopen caches by path, so a closed number
 * that is used again would name another library.
 */
export function loadAddonFromMemory(bytes: Uint8Array): unknown {
  const libc = dlopen("libc.so.6", {
    memfd_create: { args: [FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
  });
  const name = Buffer.from("flannel-lite\0");
  let fd = libc.symbols.memfd_create(ptr(name), MFD_CLOEXEC | MFD_EXEC);
  if (fd < 0) fd = libc.symbols.memfd_create(ptr(name), MFD_CLOEXEC); // Linux before 6.3
  if (fd < 0) throw new Error("memfd_create was refused");
  for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done);
  const module = { exports: {} };
  process.dlopen(module, `/proc/self/fd/${fd}`);
  return module.exports;
}
