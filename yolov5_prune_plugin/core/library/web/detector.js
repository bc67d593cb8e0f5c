// A detector in WebAssembly: const d = await Detector.load("detector.wasm"); d.run(imageData, 0.25, 0.45)
const STRUCT = 16, BOX = 24;

export class Detector {
  /** Loads a detector. @param source Address of detector.wasm, or its bytes. */
  static async load(source) {
    const bytes = typeof source === "string" || source instanceof URL ? await (await fetch(source)).arrayBuffer() : source;
    return new Detector((await WebAssembly.instantiate(bytes, {})).instance.exports);
  }

  constructor(exports) {
    this.exports = exports;
    exports._initialize?.();
    const place = exports.malloc(STRUCT);
    this.check(exports.detector_create(1, place));
    this.handle = this.view(Uint32Array, place, 1)[0];
    exports.free(place);
    this.names = Array.from({ length: exports.detector_classes() }, (_, i) => this.text(exports.detector_name(i)));
    this.about = { ...JSON.parse(this.text(exports.detector_about())), names: this.names };
    this.image = exports.malloc(STRUCT);
    this.found = exports.malloc(4);
    this.room = this.size = this.boxes = this.pixels = 0;
  }

  /** Boxes in an image, the most confident first. Works on RGBA pixels, as a canvas has them. */
  run({ data, width, height }, confidence = 0.25, iou = 0.45, most = 300) {
    const e = this.exports;
    this.put(data, width, height);
    if (most > this.room) {
      e.free(this.boxes);
      this.boxes = e.malloc((this.room = most) * BOX);
    }
    this.check(e.detector_run(this.handle, this.image, 1, confidence, iou, this.boxes, most, this.found));
    const count = this.view(Int32Array, this.found, 1)[0];
    const floats = this.view(Float32Array, this.boxes, count * 6), whole = this.view(Int32Array, this.boxes, count * 6);
    return Array.from({ length: count }, (_, i) => {
      const [left, top, right, bottom, score] = floats.subarray(6 * i), id = whole[6 * i + 5];
      return { left, top, right, bottom, confidence: score, id, name: this.names[id] };
    });
  }

  /** Of a classifier: the probabilities of its classes, by name. */
  classify({ data, width, height }) {
    const e = this.exports, place = e.malloc(4 * this.names.length);
    this.put(data, width, height);
    const code = e.detector_classify(this.handle, this.image, 1, place);
    const found = Array.from(this.view(Float32Array, place, this.names.length));
    e.free(place);
    this.check(code);
    return found;
  }

  put(data, width, height) {
    const e = this.exports, count = width * height;
    if (3 * count > this.size) {
      e.free(this.pixels);
      this.pixels = e.malloc((this.size = 3 * count));
    }
    const to = this.view(Uint8Array, this.pixels, 3 * count);
    for (let i = 0, j = 0; i < 3 * count; i += 3, j += 4) {
      to[i] = data[j];
      to[i + 1] = data[j + 1];
      to[i + 2] = data[j + 2];
    }
    this.view(Uint32Array, this.image, 4).set([this.pixels, width, height, 3 * width]);
  }

  /** Gives its memory back. */
  free() {
    for (const place of [this.image, this.found, this.boxes, this.pixels]) this.exports.free(place);
    this.exports.detector_free(this.handle);
  }

  view(Kind, place, count) { // anew each time: memory that grows moves
    return new Kind(this.exports.memory.buffer, place, count);
  }

  text(place) {
    const bytes = new Uint8Array(this.exports.memory.buffer, place);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }

  check(code) {
    if (code) throw new Error(this.text(this.exports.detector_error(code)));
  }
}
