const widthChars = 100;

/** `text` broken between words so that no line is wider than 100 characters, unless a word is. */
export function wrapped(text: string, first = "", rest = ""): string {
  const lines: string[] = [];
  let line = first;
  let words = 0;
  for (const word of text.split(" ")) {
    if (words > 0 && line.length + 1 + word.length > widthChars) {
      lines.push(line);
      line = rest;
      words = 0;
    }
    line += (words++ > 0 ? " " : "") + word;
  }
  return [...lines, line].join("\n");
}
