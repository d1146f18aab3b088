import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  chartChecksum,
  chartDirectory,
  chartScenarios,
  manifestsDirectory,
  refusedValues,
} from "../support/chart.ts";
import { golden } from "../support/golden.ts";
import { helmProgram, renderChart } from "../support/helm.ts";

const helm = helmProgram();

describe("helm", () => {
  test.each(chartScenarios)("$name: rendered as the golden, which make test looks at", async (scenario) => {
    const { code, output, errors } = await renderChart(chartDirectory, scenario.values);
    expect([code, errors]).toEqual([0, ""]);
    expect(output).toBe(golden(`helm/${scenario.name}.yml`, output));
  });

  test("the goldens are of this chart", () => {
    expect(`${chartChecksum()}\n`).toBe(golden("helm/checksum.txt", `${chartChecksum()}\n`));
  });

  test("flannel-lite.yml is the chart with its own values, and its namespace", async () => {
    const { output } = await renderChart(chartDirectory, { lite: { createNamespace: true } });
    expect(readFileSync(join(manifestsDirectory, "flannel-lite.yml"), "utf8")).toBe(output);
  });

  test.each(refusedValues)("%j is refused: %s", async (values, reason) => {
    const { code, output, errors } = await renderChart(chartDirectory, values);
    expect([code, output]).toEqual([1, ""]);
    expect(errors).toContain(reason);
  });

  test("the chart has nothing that helm warns of", async () => {
    const child = Bun.spawn([helm, "lint", "--strict", chartDirectory], { stdout: "pipe", stderr: "pipe" });
    expect(await new Response(child.stdout).text()).toContain("1 chart(s) linted, 0 chart(s) failed");
    expect(await child.exited).toBe(0);
  });
});
