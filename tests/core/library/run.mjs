// node run.mjs FOLDER: pixels on stdin (width, height, then RGBA); what the detector finds, as JSON. Or its errors.
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const { Detector } = await import(pathToFileURL(`${folder}/detector.js`));
const d = await Detector.load(fs.readFileSync(`${folder}/detector.wasm`));
const [width, height] = process.argv.slice(3).map(Number);
const data = new Uint8Array(fs.readFileSync(0));
const image = { data, width, height };
const found = d.about.task === "classify" ? d.classify(image) : d.run(image, 0.05, 0.45);
for (let i = 0; i < 20 && d.about.task !== "classify"; i++) { // memory does not grow, and answers stay
  if (JSON.stringify(d.run(image, 0.05, 0.45)) !== JSON.stringify(found)) throw new Error("another answer");
}
const errors = [];
for (const wrong of [() => d.run({ data, width: 0, height: 5 }), () => d.run(image, 2), () => d.classify(image)]) {
  try {
    wrong();
    errors.push("");
  } catch (error) {
    errors.push(error.message);
  }
}
const bytes = d.exports.memory.buffer.byteLength;
d.free();
console.log(JSON.stringify({ about: d.about, found, errors, bytes }));
