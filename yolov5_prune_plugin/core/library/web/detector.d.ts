/** A box in pixels of the image that was given. */
export interface Box {
  left: number;
  top: number;
  right: number;
  bottom: number;
  confidence: number;
  /** Number of the class. */
  id: number;
  /** Name of the class. */
  name: string;
}

/** RGBA pixels, row after row, as a canvas's getImageData has them. */
export interface Pixels {
  data: Uint8ClampedArray | Uint8Array;
  width: number;
  height: number;
}

export interface About {
  task: "detect" | "segment" | "classify";
  /** Height and width of what the model takes; images of any size are fitted in. */
  imgsz: [number, number];
  names: string[];
  [fact: string]: unknown;
}

/** A detector in WebAssembly. It runs where it is called: use it in a worker. */
export class Detector {
  /**
   * Loads a detector.
   * @param source Address of detector.wasm, or its bytes.
   */
  static load(source: string | URL | BufferSource): Promise<Detector>;
  readonly about: About;
  readonly names: string[];
  /**
   * Finds boxes in an image, the most confident first, as detect.py does.
   * @param confidence The least that a box must have; 0.25 if left out.
   * @param iou Boxes of a class that overlap by more are one; 0.45 if left out.
   * @param most Boxes at most; 300 if left out.
   */
  run(image: Pixels, confidence?: number, iou?: number, most?: number): Box[];
  /** Of a classifier: the probabilities of its classes. */
  classify(image: Pixels): number[];
  /** Gives its memory back. */
  free(): void;
}
