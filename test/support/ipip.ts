/**
 * Whether the kernel makes ipip devices, tried in a network namespace that goes at once. It takes root.
 * @throws Error where neither can be told
 */
export function kernelHasIpip(): boolean {
  const command = "ip link add name fl-probe type ipip local 192.0.2.1".split(" ");
  const { success, stderr } = Bun.spawnSync(["unshare", "--net", ...command], { timeout: 10_000 });
  if (success) return true;
  const said = stderr.toString();
  if (/Unknown device type|not supported/i.test(said)) return false;
  throw new Error(`whether the kernel has ipip devices cannot be told: ${said}`);
}
