// node library.mjs DIST MODEL.onnx SIZE ROUNDS {"name": "folder", ...}: times of all in turns, as one line of JSON.
import fs from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [dist, model, size, rounds, given] = process.argv.slice(2).map((word, i) => (i === 2 || i === 3 ? +word : word));
const ort = createRequire(import.meta.url)(`${dist}/ort.wasm.min.js`);
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: pathToFileURL(`${dist}/ort-wasm-simd-threaded.wasm`).href,
  mjs: pathToFileURL(`${dist}/ort-wasm-simd-threaded.mjs`).href };
ort.env.wasm.wasmBinary = fs.readFileSync(`${dist}/ort-wasm-simd-threaded.wasm`);
const session = await ort.InferenceSession.create(fs.readFileSync(model), { executionProviders: ["wasm"] });
const floats = new Float32Array(3 * size * size).map(Math.random);
const input = { [session.inputNames[0]]: new ort.Tensor("float32", floats, [1, 3, size, size]) };
const data = new Uint8Array(4 * size * size).map(() => 256 * Math.random());
const runs = { base: () => session.run(input) };
for (const [name, folder] of Object.entries(JSON.parse(given))) {
  const { Detector } = await import(pathToFileURL(`${folder}/detector.js`).href);
  const d = await Detector.load(fs.readFileSync(`${folder}/detector.wasm`));
  runs[name] = () => d.run({ data, width: size, height: size });
}
const times = Object.fromEntries(Object.keys(runs).map((name) => [name, []]));
for (let round = -2; round < rounds; round++) {
  const names = Object.keys(runs);
  for (const name of round % 2 ? names : names.reverse()) {
    const started = performance.now();
    await runs[name]();
    if (round >= 0) times[name].push(performance.now() - started);
  }
}
const sorted = (list) => [...list].sort((a, b) => a - b);
const at = (list, share) => sorted(list)[Math.floor((list.length - 1) * share)];
const libraries = {};
for (const name of Object.keys(runs).filter((one) => one !== "base")) {
  const ratios = times.base.map((base, i) => base / times[name][i]);
  libraries[name] = { ms: at(times[name], 0.5), ratio: at(ratios, 0.5), low: at(ratios, 0.25), high: at(ratios, 0.75) };
}
console.log(JSON.stringify({ node: process.version, base: at(times.base, 0.5), libraries }));
process.exit(0);
