import { exampleText } from "./example.ts";
import { flagReference } from "./flag-reference.ts";

// Run from anywhere: `bun src/config/write-example.ts` makes config.toml.example and docs/flags.md anew.
await Bun.write(new URL("../../config.toml.example", import.meta.url), exampleText());
await Bun.write(new URL("../../docs/flags.md", import.meta.url), flagReference());
