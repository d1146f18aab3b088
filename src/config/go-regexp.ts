/** Longest regular expression taken, in characters. It is matched against addresses and interface names only. */
const charsMax = 512;

/** RE2's classes by name, for ASCII as there. */
const posixClasses: Readonly<Record<string, string>> = {
  alnum: "0-9A-Za-z",
  alpha: "A-Za-z",
  digit: "0-9",
  lower: "a-z",
  upper: "A-Z",
  word: "0-9A-Za-z_",
  xdigit: "0-9A-Fa-f",
};

/**
 * A regular expression in Go's syntax (RE2) as JavaScript's; undefined where Go would not compile it, or where
 * it needs what JavaScript cannot say. Written for addresses and names: Unicode classes are not taken.
 */
export function goRegExp(text: string): RegExp | undefined {
  if (text.length > charsMax) return undefined;
  const [, letters = "", rest = text] = /^\(\?([ims]+)\)(.*)$/s.exec(text) ?? [];
  const source = translated(rest);
  if (source === undefined) return undefined;
  try {
    return new RegExp(source, [...new Set(letters)].join(""));
  } catch {
    return undefined;
  }
}

/** Goes through the pattern piece by piece; what both languages read alike stays as it is. */
function translated(pattern: string): string | undefined {
  let source = "";
  let inClass = false;
  for (let at = 0; at < pattern.length;) {
    const rest = pattern.slice(at);
    const piece = inClass ? classPiece(rest) : outerPiece(rest);
    if (piece === undefined) return undefined;
    if (!inClass && piece.from.startsWith("[")) inClass = true;
    else if (inClass && piece.from === "]") inClass = false;
    source += piece.to;
    at += piece.from.length;
  }
  return inClass ? undefined : source;
}

interface Piece {
  readonly from: string;
  readonly to: string;
}

function outerPiece(rest: string): Piece | undefined {
  const group = /^\(\?(P?<\w+>|:)?/.exec(rest);
  if (group !== null) {
    // Looking around and flags for a part only: JavaScript's own, not RE2's, or not to be translated.
    if (group[1] === undefined) return undefined;
    return { from: group[0], to: group[0].replace("?P<", "?<") };
  }
  const quoted = /^\\Q(.*?)(\\E|$)/s.exec(rest);
  if (quoted !== null) return { from: quoted[0], to: (quoted[1] ?? "").replace(/[^\w\s]/g, "\\$&") };
  const anchor = /^\\[Az]/.exec(rest)?.[0];
  if (anchor !== undefined) return { from: anchor, to: anchor === "\\A" ? "(?<![^])" : "(?![^])" };
  const open = /^\[\^?\]?/.exec(rest)?.[0];
  // A ] right behind the opening is an ordinary character in RE2.
  if (open !== undefined) return { from: open, to: open.endsWith("]") ? `${open.slice(0, -1)}\\]` : open };
  return escape(rest) ?? (rest.startsWith("\\") ? undefined : plain(rest));
}

function classPiece(rest: string): Piece | undefined {
  const named = /^\[:(\w+):\]/.exec(rest);
  if (named !== null) {
    const members = posixClasses[named[1] ?? ""];
    return members === undefined ? undefined : { from: named[0], to: members };
  }
  if (rest.startsWith("[:")) return undefined;
  return escape(rest) ?? (rest.startsWith("\\") ? undefined : plain(rest));
}

/** The escapes that mean the same in both; RE2 has no back references. */
function escape(rest: string): Piece | undefined {
  const found = /^\\([dDsSwWbBtnrfv]|x[\da-fA-F]{2}|[^\w\s])/.exec(rest)?.[0];
  return found === undefined ? undefined : { from: found, to: found };
}

function plain(rest: string): Piece {
  return { from: rest.slice(0, 1), to: rest.slice(0, 1) };
}
