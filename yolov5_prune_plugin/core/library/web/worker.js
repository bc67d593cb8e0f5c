// Runs the detector apart from the page, so that the page never waits for it.
import { Detector } from "./detector.js";

const ready = Detector.load("detector.wasm");
ready.then(
  (d) => postMessage({ about: d.about }),
  (error) => postMessage({ error: String(error.message ?? error) }),
);

onmessage = async ({ data: { number, image, confidence, iou } }) => {
  try {
    const d = await ready, started = performance.now();
    const found = d.about.task === "classify" ? { scores: d.classify(image) } : { boxes: d.run(image, confidence, iou) };
    postMessage({ number, ...found, ms: performance.now() - started });
  } catch (error) {
    postMessage({ number, error: String(error.message ?? error) });
  }
};
