/** Rows as lines, their columns aligned; control characters of a cell are shown as `?`. */
export function tableText(rows: readonly (readonly string[])[]): string {
  const cells = rows.map((row) => row.map(plain));
  const widths = (cells[0] ?? []).map((_, column) =>
    Math.max(...cells.map((row) => row[column]?.length ?? 0)),
  );
  return cells
    .map(
      (row) =>
        `${row
          .map((cell, at) => cell.padEnd(widths[at] ?? 0))
          .join("  ")
          .trimEnd()}\n`,
    )
    .join("");
}

/** Names come from the store: they must not steer the terminal. */
function plain(cell: string): string {
  return cell.slice(0, cellCharsMax).replace(/[\p{Cc}\p{Cf}]/gu, "?");
}

const cellCharsMax = 64;
