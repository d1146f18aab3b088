/** The real helm, which HELM_BIN names. */
export function helmProgram(): string {
  const program = process.env["HELM_BIN"] ?? "";
  if (program === "") throw new Error("HELM_BIN must name helm, version 3");
  return program;
}

/** A chart with values, for the release `flannel` in `kube-flannel`; without the lines that name its templates. */
export async function renderChart(
  chart: string,
  values: object,
): Promise<{ code: number; output: string; errors: string }> {
  const command = [
    helmProgram(),
    "template",
    "flannel",
    chart,
    "--namespace",
    "kube-flannel",
    "--values",
    "-",
  ];
  const child = Bun.spawn(command, {
    stdin: new Blob([JSON.stringify(values)]),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, output: output.replaceAll(/^# Source: .*\n/gm, ""), errors };
}
