// Edits of an image: chosen, uploaded or sampled; a brush for the mask; results step by step.
import { addOptions, formValues, postImage, postJSON, runPath, showError } from "/static/page.js";
import { Brush } from "/static/brush.js";
import { Panel, Scrubber } from "/static/panel.js";
import { describeModel, fillSettings, showOptions } from "/static/settings.js";

const form = document.getElementById("edit"), run = form.dataset.run, element = (id) => document.getElementById(id);
const state = element("state"), go = element("go"), cancel = element("cancel"), container = element("panels");
const brush = new Brush(element("canvas"));
let image = null, panels = [], stopping = null;
const scrubber = new Scrubber(() => panels);
const kind = () => element("edit-kind").value;

/** Show a stored image, and edit it from now on. */
async function open(name) {
  const response = await fetch(runPath(run, `/files/${name}`));
  if (!response.ok) throw new Error(`cannot read ${name}`);
  brush.open(await createImageBitmap(await response.blob()));
  image = name;
  const short = name.slice(name.indexOf("/") + 1);
  const options = [...element("kept").options].map((o) => o.value);
  if (!options.includes(short)) {
    addOptions(element("kept"), [short]);
    addOptions(element("to"), [[name, short]]);
  }
  element("kept").value = short;
}

async function trying(job) {
  showError("");
  try {
    await job();
  } catch (error) {
    state.textContent = error.name === "AbortError" ? "cancelled" : "";
    if (error.name !== "AbortError") showError(error.message);
  }
}

element("kept").addEventListener("change", (event) => event.target.value && trying(() => open(`edits/${event.target.value}`)));
element("file").addEventListener("change", (event) => trying(async () => {
  const [file] = event.target.files;
  if (!file) return;
  const kept = await postImage(`/api${runPath(run, `/image/images?fit=${element("fit").checked}`)}`, file);
  await open(kept.name);
}));
element("take").addEventListener("click", () => trying(async () => {
  state.textContent = "sampling an image...";
  const kept = await postJSON(`/api${runPath(run, "/keep")}`, { n: 1, seed: element("random").value || 0, index: 0 });
  await open(kept.name);
  state.textContent = "";
}));
element("radius").addEventListener("input", (event) => { brush.radius = Number(event.target.value); });
element("undo").addEventListener("click", () => brush.undo());
element("clear").addEventListener("click", () => brush.change(() => 0));
element("invert").addEventListener("click", () => brush.change((value) => 1 - value));
element("depth").addEventListener("input", (event) => { element("depth-value").textContent = event.target.value; });

function showFields() {
  for (const field of form.querySelectorAll("[data-kinds]")) {
    field.hidden = !field.dataset.kinds.split(" ").includes(kind());
    for (const input of field.querySelectorAll("input, select")) input.disabled = field.hidden;
  }
}
element("edit-kind").addEventListener("change", showFields);
showFields();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  trying(edit);
});
cancel.addEventListener("click", () => stopping?.abort());

async function edit() {
  const values = { ...formValues(form), image };
  if (!image) throw new Error("choose an image first");
  if (kind() === "inpaint") {
    if (!brush.painted) throw new Error("paint on the image first: the painted pixels are sampled");
    const { width, height } = brush.canvas;
    const kept = await postImage(`/api${runPath(run, `/mask/images?height=${height}&width=${width}`)}`, await brush.toBlob());
    values.mask = kept.name;
  }
  container.replaceChildren();
  panels = [new Panel(container, kind())];
  stopping = new AbortController();
  go.disabled = true;
  cancel.hidden = false;
  try {
    const seconds = await panels[0].run(`/api${runPath(run, "/edit")}`, values, {
      signal: stopping.signal, onStep: (step) => { state.textContent = `step ${step.index + 1} of ${step.total}`; },
    });
    state.textContent = `${seconds.toFixed(2)} s`;
    showResult();
  } finally {
    go.disabled = false;
    cancel.hidden = true;
  }
}

/** The slider of the result: over the time, or over the images of an interpolation. */
function showResult() {
  const between = kind() === "interpolate", frames = panels[0].frames;
  element("between").hidden = !between;
  if (!between) return scrubber.open();
  element("scrubber").hidden = true;
  element("point").max = frames.count - 1;
  element("point").value = 0;
  panels[0].grid.begin(1, frames.shape);
  showPoint();
}

function showPoint() {
  const index = Number(element("point").value), { frames, grid } = panels[0];
  const size = frames.shape.reduce((a, b) => a * b, 1);
  const [[, frame]] = frames.at(1);
  grid.show(frame.x.subarray(index * size, (index + 1) * size), 1);
  element("point-value").textContent = `${index} of ${frames.count - 1}`;
}
element("point").addEventListener("input", showPoint);

trying(async () => {
  const offer = await fillSettings(run);
  if (!offer.diffusion) {
    go.disabled = true;
    throw new Error(`${describeModel(offer)}; edits need a diffusion model`);
  }
  const method = element("method"), own = method.options[0].text;
  addOptions(method, offer.solvers.map((s) => s.name).filter((name) => name !== own));
  const showSolver = () => { showOptions(offer.solvers, method.value || own, "solver-options", "solver"); showFields(); };
  method.addEventListener("change", showSolver);
  showSolver();
  state.textContent = describeModel(offer);
  const wanted = new URLSearchParams(location.search).get("image");
  if (wanted) await open(wanted);
});
