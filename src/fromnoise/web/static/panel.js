// Panels: each samples of a run by its own settings, all at the same time t.
import { postStream, showCommand } from "/static/page.js";
import { Frames, Grid } from "/static/frames.js";

// Painting each step would take time from the sampling: after a while the samples are painted less often.
const SOONEST_MS = 100, LATEST_MS = 1000, PART = 0.1;

/** Samples with their canvas. */
export class Panel {
  /** A panel in a container, under a title. */
  constructor(container, title, onChoose) {
    const section = document.createElement("section");
    section.className = "panel";
    const heading = document.createElement("h3");
    heading.textContent = title;
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-label", title);
    section.append(heading, canvas);
    container.append(section);
    this.grid = new Grid(canvas, onChoose);
    this.frames = null;
  }

  /** Run a job that streams steps, and show each as it comes. */
  async run(path, values, { signal, onStep = () => {}, place = 0, kind = () => "x" } = {}) {
    let frames = null, shown = 0;
    const done = { seconds: 0 }, begun = performance.now();
    await postStream(path, { ...values, place }, (header, content) => {
      if (header.event === "command") showCommand(header.command, place);
      if (header.event === "begin") {
        this.frames = frames = new Frames(header.count, header.shape);
        this.grid.begin(header.count, header.shape);
      }
      if (header.event === "step") {
        frames.add(header, content);
        const now = performance.now(), wait = Math.min(LATEST_MS, Math.max(SOONEST_MS, PART * (now - begun)));
        if (now - shown > wait || header.index === header.total - 1) {
          this.grid.showFrame(frames, 1, kind());
          onStep(header);
          shown = performance.now();
        }
      }
      done.seconds = (performance.now() - begun) / 1000;
    }, signal);
    return done.seconds;
  }

  /** Show the frames at a place in [0, 1]. */
  show(place, kind) {
    if (this.frames && this.frames.length) this.grid.showFrame(this.frames, place, kind);
  }
}

/** A slider over the time of some panels. */
export class Scrubber {
  /** Bind the slider of the page. */
  constructor(panels, kind = () => "x") {
    this.panels = panels;
    this.kind = kind;
    this.box = document.getElementById("scrubber");
    this.slider = document.getElementById("time");
    this.value = document.getElementById("time-value");
    this.slider.addEventListener("input", () => this.show());
  }

  /** Where the slider stands, in [0, 1]. */
  get place() {
    return Number(this.slider.value) / Number(this.slider.max);
  }

  /** Make the slider fit the most steps, and stand at its end. */
  open() {
    const frames = Math.max(...this.panels().map((panel) => panel.frames?.length || 0));
    this.box.hidden = frames < 1;
    this.slider.max = Math.max(1, frames - 1);
    this.slider.value = this.slider.max;
    this.show();
  }

  /** Show all panels where the slider stands. */
  show() {
    const panels = this.panels(), kind = this.kind();
    for (const panel of panels) panel.show(this.place, kind);
    const first = panels.find((panel) => panel.frames?.length);
    if (!first) return;
    const time = first.frames.time(this.place, kind).toFixed(3);
    this.value.textContent = time;
    this.slider.setAttribute("aria-valuetext", `t = ${time}`);
  }
}
