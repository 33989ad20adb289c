// The frames of a sampling loop, and the canvas that shows one of them: all samples at a time t.

/** Samples as they were at each step of the loop, in the memory of this page. */
export class Frames {
  /** count samples of shape [C, H, W]. */
  constructor(count, shape) {
    this.count = count;
    this.shape = shape;
    this.batches = new Map();
  }

  /** Take the answer of a step: x and then x0 of its batch. */
  add(header, content) {
    const half = content.length / 2;
    if (!this.batches.has(header.first)) this.batches.set(header.first, []);
    const { t, s, count, labels } = header;
    this.batches.get(header.first).push({ t, s, count, labels, x: content.subarray(0, half), x0: content.subarray(half) });
  }

  /** The number of frames of the first batch. */
  get length() {
    return this.batches.size ? this.batches.values().next().value.length : 0;
  }

  /** The time of the frame at a place in [0, 1]: of x the level that was reached, of x0 that of the network's input. */
  time(place, kind) {
    const frames = this.batches.values().next().value;
    const frame = frames[Math.round(place * (frames.length - 1))];
    return kind === "x0" ? frame.t : frame.s;
  }

  /** Yield [number of the first sample, frame] of each batch at a place in [0, 1]. */
  *at(place) {
    for (const [first, frames] of this.batches) yield [first, frames[Math.round(place * (frames.length - 1))]];
  }
}

/** Write images, uint8 (N, C, H, W), into rows and columns of ImageData. */
export function paintImages(data, images, shape, columns, first, count) {
  const [channels, height, width] = shape, area = height * width, target = data.data;
  for (let i = 0; i < count; i++) {
    const place = first + i;
    const left = (place % columns) * (width + 1), top = Math.floor(place / columns) * (height + 1);
    const start = i * channels * area;
    for (let y = 0; y < height; y++) {
      let out = 4 * ((top + y) * data.width + left), from = start + y * width;
      for (let x = 0; x < width; x++, out += 4, from++) {
        const grey = channels < 3;
        target[out] = images[from];
        target[out + 1] = images[grey ? from : from + area];
        target[out + 2] = images[grey ? from : from + 2 * area];
        target[out + 3] = channels === 2 ? images[from + area] : channels === 4 ? images[from + 3 * area] : 255;
      }
    }
  }
}

/** A canvas with images in rows and columns, of which one can be chosen. */
export class Grid {
  /** Show images on a canvas; onChoose(index) is called when one is chosen by pointer or arrow keys. */
  constructor(canvas, onChoose = () => {}) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.chosen = 0;
    this.onChoose = onChoose;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.addEventListener("pointerdown", (event) => this.chooseAt(event));
    canvas.addEventListener("keydown", (event) => this.move(event));
  }

  /** Prepare for count images of shape [C, H, W]. */
  begin(count, shape, columns = Math.ceil(Math.sqrt(count))) {
    this.count = count;
    this.shape = shape;
    this.columns = columns;
    const rows = Math.ceil(count / this.columns);
    this.canvas.width = this.columns * (shape[2] + 1) - 1;
    this.canvas.height = rows * (shape[1] + 1) - 1;
    this.canvas.classList.add("pixels");
    this.data = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.chosen = Math.min(this.chosen, count - 1);
  }

  /** Show images (N, C, H, W). */
  show(images, count, first = 0) {
    paintImages(this.data, images, this.shape, this.columns, first, count);
    this.context.putImageData(this.data, 0, 0);
  }

  /** Show the frame at a place in [0, 1], x or x0. */
  showFrame(frames, place, kind) {
    for (const [first, frame] of frames.at(place)) paintImages(this.data, frame[kind], this.shape, this.columns, first, frame.count);
    this.context.putImageData(this.data, 0, 0);
    const what = kind === "x0" ? "estimates of x_0" : "samples";
    this.canvas.setAttribute("aria-label", `${frames.count} ${what} at t = ${frames.time(place, kind)}`);
  }

  chooseAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
    const rows = Math.ceil(this.count / this.columns);
    this.choose(Math.floor(((event.clientY - box.top) / box.height) * rows) * this.columns + column);
  }

  move(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    this.choose(this.chosen + by);
  }

  choose(index) {
    if (index < 0 || index >= this.count) return;
    this.chosen = index;
    this.onChoose(index);
  }
}
