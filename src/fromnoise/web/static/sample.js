// Samples of a run: the grid fills while the loop runs, and a slider goes through its steps.
import { addOptions, formValues, postJSON, postStream, runPath, showError } from "/static/page.js";
import { Panel, Scrubber } from "/static/panel.js";
import { describeModel, fillSettings, showOptions } from "/static/settings.js";

const form = document.getElementById("sample"), run = form.dataset.run, state = document.getElementById("state");
const container = document.getElementById("panels"), go = document.getElementById("go"), cancel = document.getElementById("cancel");
let panels = [], requests = [], stopping = null;

const chosenKind = () => document.querySelector("input[name=kind]:checked").value;
const shownKind = () => (chosenKind() === "nearest" ? "x" : chosenKind());
const process = () => document.querySelector("input[name=process]:checked").value;
const scrubber = new Scrubber(() => panels, shownKind);

/** The samples that the form asks for: [run, title, values]. */
function wanted() {
  const { beside, kind, process: _, ...values } = formValues(form);
  const list = [[run, `${run}, ${values.sampler || "the recipe's sampler"}`, values]];
  if (beside?.startsWith("sampler:")) {
    const sampler = beside.slice(8);
    const rest = Object.entries(values).filter(([key]) => !key.startsWith("option."));  // which are of the other sampler
    list.push([run, `${run}, ${sampler}`, { ...Object.fromEntries(rest), sampler }]);
  } else if (beside) list.push([beside.slice(4), beside.slice(4), values]);
  return list;
}

async function work(job) {
  showError("");
  stopping = new AbortController();
  go.disabled = true;
  cancel.hidden = false;
  try {
    await job(stopping.signal);
  } catch (error) {
    if (error.name === "AbortError") state.textContent = "cancelled";
    else showError(error.message);
  } finally {
    go.disabled = false;
    cancel.hidden = true;
  }
}

async function sample(name = "sample") {
  container.replaceChildren();
  requests = wanted();
  panels = requests.map(([, title]) => new Panel(container, title, choose));
  remember();
  await work(async (signal) => {
    const times = [];
    for (const [i, [of, , values]] of requests.entries()) {
      const seconds = await panels[i].run(`/api${runPath(of, `/${name}`)}`, values, {
        signal, kind: shownKind, place: i,
        onStep: (step) => { state.textContent = `step ${step.index + 1} of ${step.total}`; },
      });
      times.push(`${seconds.toFixed(2)} s`);
    }
    state.textContent = times.join(", ");
    scrubber.open();
    document.getElementById("save").hidden = false;
  });
}

function choose(index) {
  const chosen = document.getElementById("chosen");
  if (chosen) chosen.textContent = index;
}

/** Keep the settings in the address: reloading it samples the same. */
function remember() {
  const query = new URLSearchParams(formValues(form));
  query.delete("kind");
  query.delete("process");
  history.replaceState(null, "", `?${query}`);
  const values = new URLSearchParams(requests[0][2]);
  for (const link of document.querySelectorAll("#save a")) link.href = runPath(run, `/samples.${link.dataset.kind}?${values}`);
}

async function showNearest() {
  await work(async (signal) => {
    for (const [i, [of, , values]] of requests.entries()) {
      await postStream(`/api${runPath(of, "/nearest")}`, values, (header, content) => {
        if (header.event === "progress") state.textContent = `${header.done} of ${header.total} training images`;
        if (header.event === "end" && header.count) panels[i].grid.show(content, header.count);
      }, signal);
    }
    state.textContent = "the training image that is nearest to each sample, by pixels";
  });
}

form.addEventListener("submit", (event) => { event.preventDefault(); sample(); });
cancel.addEventListener("click", () => stopping?.abort());
for (const radio of document.querySelectorAll("input[name=kind]")) {
  radio.addEventListener("change", () => (chosenKind() === "nearest" ? showNearest() : scrubber.show()));
}
for (const radio of document.querySelectorAll("input[name=process]")) {
  radio.addEventListener("change", () => sample(process() === "forward" ? "forward" : "sample"));
}
document.getElementById("edit-sample")?.addEventListener("click", async () => {
  try {
    const kept = await postJSON(`/api${runPath(run, "/keep")}`, { ...requests[0][2], index: panels[0].grid.chosen });
    location.href = runPath(run, `/edit?image=${encodeURIComponent(kept.name)}`);
  } catch (error) {
    showError(error.message);
  }
});

const play = document.getElementById("play");
let playing = null;
play.addEventListener("click", () => {
  if (playing) {
    clearInterval(playing);
    playing = null;
    play.textContent = "Play";
    return;
  }
  play.textContent = "Pause";
  scrubber.slider.value = 0;
  const wait = Math.max(30, 3000 / Number(scrubber.slider.max));
  playing = setInterval(() => {
    scrubber.slider.value = Number(scrubber.slider.value) + 1;
    scrubber.show();
    if (scrubber.place >= 1) play.click();
  }, wait);
});

async function open() {
  try {
    const offer = await fillSettings(run);
    const beside = document.getElementById("beside");
    if (offer.diffusion) addOptions(beside, offer.samplers.map((s) => [`sampler:${s.name}`, s.name]));
    go.disabled = !offer.generative;
    const others = [...document.getElementById("others").options].map((o) => o.value).filter((name) => name !== run);
    addOptions(beside, others.map((name) => [`run:${name}`, `run ${name}`]));
    state.textContent = describeModel(offer);
    const query = new URLSearchParams(location.search);
    if (query.has("sampler")) form.elements.sampler.value = query.get("sampler");
    if (offer.diffusion) showOptions(offer.samplers, form.elements.sampler.value);
    for (const [key, value] of query) if (form.elements[key]) form.elements[key].value = value;
    if (query.size && offer.generative) await sample();
  } catch (error) {
    state.textContent = "";
    showError(error.message);
  }
}
open();
