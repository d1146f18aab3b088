/** Versions of the specification whose configurations are understood; the last is the newest. */
export const supportedVersions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/** What a configuration without a version is. */
export const oldestVersion = "0.1.0";

/** Whether `version` is `other` or newer; both are supported ones, which are listed in their order. */
export function isAtLeast(version: string, other: string): boolean {
  return supportedVersions.indexOf(version) >= supportedVersions.indexOf(other);
}

/** The answer to VERSION. */
export function versionText(): string {
  return `${JSON.stringify({ cniVersion: supportedVersions.at(-1), supportedVersions })}\n`;
}
