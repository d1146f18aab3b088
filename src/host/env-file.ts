/** A file larger than this is none that we read. */
export const envFileBytesMax = 64 * 1024;

/**
 * The variables of a file of shell assignments, such as subnet.env, by the rules of a shell but without one:
 * comments, `export`, quotes and CRLF are accepted, nothing is expanded. The last of a name counts.
 */
export function envFileValues(text: string): Map<string, string> {
  const values = new Map<string, string>();
  for (const line of text.slice(0, envFileBytesMax).split(/\r?\n/)) {
    const match = /^\s*(?:export\s+)?([A-Za-z_]\w*)=\s*(?:"([^"]*)"|'([^']*)'|([^#]*))/.exec(line);
    if (match?.[1] !== undefined) values.set(match[1], (match[2] ?? match[3] ?? match[4] ?? "").trim());
  }
  return values;
}
