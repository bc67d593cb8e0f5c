// Times onnxruntime-web on a dense model and libraries in turns. In node: node library.mjs DIST MODEL.onnx SIZE ROUNDS
// {"name": "folder", ...}, as one line of JSON; in a browser: measured(...), with addresses for files.
const inNode = typeof process !== "undefined" && Boolean(process.versions?.node);

const at = (list, share) => [...list].sort((a, b) => a - b)[Math.floor((list.length - 1) * share)];

export async function measured(ort, bytesOf, addressOf, model, size, rounds, given) {
  const session = await ort.InferenceSession.create(await bytesOf(model), { executionProviders: ["wasm"] });
  const floats = new Float32Array(3 * size * size).map(Math.random);
  const input = { [session.inputNames[0]]: new ort.Tensor("float32", floats, [1, 3, size, size]) };
  const data = new Uint8Array(4 * size * size).map(() => 256 * Math.random());
  const runs = { base: () => session.run(input) };
  for (const [name, folder] of Object.entries(given)) {
    const { Detector } = await import(addressOf(`${folder}/detector.js`));
    const d = await Detector.load(await bytesOf(`${folder}/detector.wasm`));
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
  const libraries = {};
  for (const name of Object.keys(given)) {
    const ratios = times.base.map((base, i) => base / times[name][i]);
    libraries[name] = { ms: at(times[name], 0.5), ratio: at(ratios, 0.5), low: at(ratios, 0.25), high: at(ratios, 0.75) };
  }
  return { base: at(times.base, 0.5), libraries };
}

if (inNode) {
  const { readFileSync } = await import("node:fs");
  const { createRequire } = await import("node:module");
  const { pathToFileURL } = await import("node:url");
  const [dist, model, size, rounds, given] = process.argv.slice(2);
  const ort = createRequire(import.meta.url)(`${dist}/ort.wasm.min.js`);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { mjs: pathToFileURL(`${dist}/ort-wasm-simd-threaded.mjs`).href };
  ort.env.wasm.wasmBinary = readFileSync(`${dist}/ort-wasm-simd-threaded.wasm`);
  const address = (file) => pathToFileURL(file).href;
  const found = await measured(ort, readFileSync, address, model, +size, +rounds, JSON.parse(given));
  console.log(JSON.stringify({ where: `node ${process.version}`, ...found }));
  process.exit(0);
}
