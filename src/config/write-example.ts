import { exampleText } from "./example.ts";

// Run from anywhere: `bun src/config/write-example.ts` makes config.toml.example anew.
await Bun.write(new URL("../../config.toml.example", import.meta.url), exampleText());
