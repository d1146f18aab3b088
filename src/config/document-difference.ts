/** A member of a JSON document that is another than before; undefined where there is none. */
export interface DocumentChange {
  /** `Backend.VNI`. */
  readonly name: string;
  /** As JSON. */
  readonly from: string | undefined;
  readonly to: string | undefined;
}

/**
 * What changes between two JSON documents, a line a member: `- Backend.VNI: 1`, `+ Backend.VNI: 2`. A document
 * that cannot be read counts as one without members.
 */
export function documentDifference(before: string | undefined, after: string): string[] {
  return documentChanges(before, after).flatMap(({ name, from, to }) => [
    ...(from === undefined ? [] : [`- ${name}: ${from}`]),
    ...(to === undefined ? [] : [`+ ${name}: ${to}`]),
  ]);
}

/** The members that differ between two JSON documents. */
export function documentChanges(before: string | undefined, after: string): DocumentChange[] {
  const [old, now] = [membersOf(before), membersOf(after)];
  const names = [...new Set([...old.keys(), ...now.keys()])];
  return names
    .map((name) => ({ name, from: old.get(name), to: now.get(name) }))
    .filter(({ from, to }) => from !== to);
}

/** Members as JSON texts, those of objects by their path. */
function membersOf(document: string | undefined): Map<string, string> {
  const members = new Map<string, string>();
  const collect = (value: unknown, path: string): void => {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      for (const [name, member] of Object.entries(value))
        collect(member, path === "" ? name : `${path}.${name}`);
    } else if (path !== "") members.set(path, JSON.stringify(value));
  };
  try {
    collect(JSON.parse(document ?? "{}"), "");
  } catch {
    members.set("(unreadable)", JSON.stringify(document?.slice(0, 200)));
  }
  return members;
}
