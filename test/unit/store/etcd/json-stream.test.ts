import { expect, test } from "bun:test";
import { readJson, readJsonLines } from "../../../../src/store/etcd/json-stream.ts";
import { seededRandom } from "../../../support/random.ts";

const endpoint = "http://etcd";

function responseOf(chunks: Iterable<Uint8Array>): Response {
  const left = chunks[Symbol.iterator]();
  return new Response(
    new ReadableStream({
      pull(controller) {
        const { value, done } = left.next();
        if (done === true) controller.close();
        else controller.enqueue(value);
      },
    }),
  );
}

async function linesOf(response: Response, bytesMax?: number): Promise<unknown[]> {
  return await Array.fromAsync(readJsonLines(response, endpoint, bytesMax));
}

test("json stream: values are the same wherever the chunks are cut", async () => {
  const random = seededRandom(1);
  const values = [{ a: "é\u2028" }, [1, 2], "x".repeat(300), null, { b: { c: "\n" } }];
  const bytes = new TextEncoder().encode(`\n${values.map((value) => JSON.stringify(value)).join("\n\n")}`);
  for (let round = 0; round < 200; round++) {
    const chunks: Uint8Array[] = [];
    for (let at = 0; at < bytes.length;) {
      const end = at + 1 + random.below(40);
      chunks.push(bytes.slice(at, end));
      at = end;
    }
    expect(await linesOf(responseOf(chunks))).toEqual(values);
  }
});

test("json stream: a line or an answer over the bound ends it, before the line is complete", async () => {
  function* endless() {
    for (;;) yield new Uint8Array(1_000).fill(0x20);
  }
  const tooLong = { failure: { error: { code: "store/protocol" } } };
  await expect(linesOf(responseOf(endless()), 10_000)).rejects.toMatchObject(tooLong);
  await expect(readJson(responseOf(endless()), endpoint, 10_000)).rejects.toMatchObject(tooLong);
});

test("json stream: the bound is for each line, not for the stream", async () => {
  const line = new TextEncoder().encode(`${JSON.stringify("x".repeat(600))}\n`);
  const chunks = Array.from({ length: 50 }, () => line);
  expect((await linesOf(responseOf(chunks), 1_000)).length).toBe(50);
});

test.each(["{", "nonsense", "\uFFFD", '{"a":1}}'])("json stream: %p is store/protocol", async (text) => {
  const chunks = [new TextEncoder().encode(text)];
  const failure = { failure: { error: { code: "store/protocol" } } };
  await expect(linesOf(responseOf(chunks))).rejects.toMatchObject(failure);
  await expect(readJson(responseOf(chunks), endpoint)).rejects.toMatchObject(failure);
});
