import { metricsDocument } from "./metrics-doc.ts";

// Run from anywhere: `bun src/status/write-metrics-doc.ts` makes docs/metrics.md anew.
await Bun.write(new URL("../../docs/metrics.md", import.meta.url), metricsDocument());
