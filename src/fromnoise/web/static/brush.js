// A brush for masks: mouse, touch and keys, with undo. The mask has the pixels of the image.

const PAINT = [214, 40, 90];

/** A canvas on which pixels of an image are painted. */
export class Brush {
  /** Paint on a canvas; onChange() is called after each stroke. */
  constructor(canvas, onChange = () => {}) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.onChange = onChange;
    this.radius = 1;
    this.image = null;
    this.mask = new Uint8Array(0);
    this.past = [];
    this.cursor = null;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.release());
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show a bitmap, with nothing painted. */
  open(bitmap) {
    this.canvas.width = bitmap.width;
    this.canvas.height = bitmap.height;
    this.context.drawImage(bitmap, 0, 0);
    this.image = this.context.getImageData(0, 0, bitmap.width, bitmap.height);
    this.mask = new Uint8Array(bitmap.width * bitmap.height);
    this.past = [];
    this.cursor = { x: bitmap.width >> 1, y: bitmap.height >> 1 };
    this.show();
  }

  /** Whether some pixel is painted. */
  get painted() {
    return this.mask.some((value) => value);
  }

  /** The mask as a PNG: white where painted. */
  toBlob() {
    const sheet = new OffscreenCanvas(this.canvas.width, this.canvas.height), context = sheet.getContext("2d");
    const data = context.createImageData(sheet.width, sheet.height);
    this.mask.forEach((value, i) => data.data.set([value * 255, value * 255, value * 255, 255], 4 * i));
    context.putImageData(data, 0, 0);
    return sheet.convertToBlob({ type: "image/png" });
  }

  undo() {
    if (this.past.length) this.mask = this.past.pop();
    this.show();
    this.onChange();
  }

  /** Change the whole mask by a function of a pixel's value. */
  change(value) {
    this.keep();
    this.mask = this.mask.map(value);
    this.show();
    this.onChange();
  }

  keep() {
    this.past.push(this.mask.slice());
    if (this.past.length > 50) this.past.shift();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: Math.floor(((event.clientX - box.left) / box.width) * this.canvas.width),
      y: Math.floor(((event.clientY - box.top) / box.height) * this.canvas.height),
    };
  }

  press(event) {
    if (!this.image) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.keep();
    this.last = this.place(event);
    this.line(this.last, this.last);
  }

  drag(event) {
    if (!this.last) return;
    const to = this.place(event);
    this.line(this.last, to);
    this.last = to;
  }

  release() {
    if (this.last) this.onChange();
    this.last = null;
  }

  key(event) {
    if (!this.image) return;
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (by) {
      this.cursor.x = Math.min(this.canvas.width - 1, Math.max(0, this.cursor.x + by[0]));
      this.cursor.y = Math.min(this.canvas.height - 1, Math.max(0, this.cursor.y + by[1]));
      this.show(true);
    } else if (event.key === " ") {
      this.keep();
      this.line(this.cursor, this.cursor);
      this.show(true);
      this.onChange();
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else return;
    event.preventDefault();
  }

  /** Paint from one pixel to another. */
  line(from, to) {
    const steps = Math.max(1, Math.abs(to.x - from.x), Math.abs(to.y - from.y));
    for (let i = 0; i <= steps; i++) {
      this.dot(Math.round(from.x + ((to.x - from.x) * i) / steps), Math.round(from.y + ((to.y - from.y) * i) / steps));
    }
    this.show();
  }

  dot(x, y) {
    const { width, height } = this.canvas, r = this.radius;
    for (let dy = -r; dy <= r; dy++) {
      for (let dx = -r; dx <= r; dx++) {
        const px = x + dx, py = y + dy;
        if (dx * dx + dy * dy <= r * r + 0.5 && px >= 0 && py >= 0 && px < width && py < height) this.mask[py * width + px] = 1;
      }
    }
  }

  show(withCursor = false) {
    if (!this.image) return;
    const shown = new ImageData(new Uint8ClampedArray(this.image.data), this.canvas.width);
    this.mask.forEach((value, i) => {
      if (!value) return;
      for (let c = 0; c < 3; c++) shown.data[4 * i + c] = 0.35 * shown.data[4 * i + c] + 0.65 * PAINT[c];
      shown.data[4 * i + 3] = 255;
    });
    if (withCursor) shown.data.set([0, 200, 255, 255], 4 * (this.cursor.y * this.canvas.width + this.cursor.x));
    this.context.putImageData(shown, 0, 0);
  }
}
