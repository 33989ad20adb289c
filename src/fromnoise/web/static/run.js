// One run: its curves and previews while it trains, stop and continue.
import {
  fillList, findingLines, getJSON, numbersOf, postJSON, postStream, runPath, showCommand, showError, watchRuns,
} from "/static/page.js";
import { onResize, plotCurves } from "/static/plots.js";

const root = document.getElementById("run"), run = root.dataset.run;
const element = (id) => document.getElementById(id);
let evaluating = false, previews = element("previews").dataset.files.split(" ").filter(Boolean), curves = null, last = null;

function drawCurves() {
  if (!curves) return;
  plotCurves(element("loss"), {
    title: "loss", log: true,
    series: [
      { label: "training", x: curves.step, y: curves.loss },
      { label: "held out", x: curves.held_out.step, y: curves.held_out.loss },
      { label: "held out, raw weights", x: curves.held_out.step, y: curves.held_out.loss_raw, dash: [4, 4] },
    ],
  });
  const bins = curves.by_t || [];
  plotCurves(element("by-t"), {
    title: "held-out loss by noise level", x: "t", points: true,
    series: [{ label: "held out", x: bins.map((_, i) => (i + 0.5) / bins.length), y: bins }],
  });
}

async function loadCurves() {
  try {
    curves = await getJSON(`/api${runPath(run, "/curves")}`);
    drawCurves();
    if (curves.previews.length !== previews.length) {
      previews = curves.previews;
      setPreviews();
    }
  } catch (error) {
    showError(error.message);
  }
}

function showPreview() {
  const slider = element("preview"), name = previews[Number(slider.value)];
  if (!name) return;
  const step = Number(name.replace(/\D/g, "")).toLocaleString("en");
  element("preview-step").textContent = step;
  slider.setAttribute("aria-valuetext", `step ${step}`);
  element("preview-image").src = runPath(run, `/files/samples/${name}`);
}

function setPreviews() {
  const slider = element("preview"), atEnd = slider.value === slider.max;
  element("previews").hidden = !previews.length;
  element("no-previews").hidden = previews.length > 0;
  slider.max = Math.max(0, previews.length - 1);
  if (atEnd) slider.value = slider.max;
  showPreview();
}

function update(state) {
  element("status").textContent = state.status;
  element("status").className = `status ${state.status}`;
  element("progress").value = state.progress;
  element("numbers").textContent = numbersOf(state);
  element("warning").textContent = state.warning;
  element("warning").hidden = !state.warning;
  element("stop").hidden = state.status !== "running";
  element("continue").hidden = state.status !== "stopped";
  for (const link of document.querySelectorAll("[data-needs=model]")) link.hidden = !state.sampleable;
}

/** The folder of the run was deleted or renamed while this page was open. */
function showGone() {
  showError(`${run} is not in the folder of runs any more`);
  update({ ...(last || {}), status: "gone", step: last?.step, progress: last?.progress || 0, loss: null, remaining: null, warning: "", sampleable: false });
}

watchRuns((states) => {
  const state = states.runs.find((s) => s.name === run);
  const failure = states.failures[run];
  if (failure) showError(failure);
  if (!state) {
    if (!states.starting.includes(run)) showGone();
    return;
  }
  const evaluated = states.evaluating.includes(run);
  if (evaluating && !evaluated && !failure) return location.reload();  // its report
  evaluating = evaluated;
  element("evaluating").textContent = evaluating ? "being evaluated..." : "";
  element("evaluate").disabled = evaluating;
  update(state);
  const ended = last?.status === "running" && state.status !== "running";
  if (ended || (last && !last.clustered && state.clustered)) return location.reload();  // its images, log and cluster map
  if (!last || last.step !== state.step || last.previews !== state.previews) loadCurves();
  last = state;
});

for (const action of ["stop", "continue", "evaluate"]) {
  element(action).addEventListener("click", async (event) => {
    event.target.disabled = true;
    showError("");
    try {
      const done = await postJSON(`/api${runPath(run, `/${action}`)}`);
      if (done.command) showCommand(done.command);
    } catch (error) {
      showError(error.message);
    }
    setTimeout(() => { event.target.disabled = false; }, 3000);
  });
}
element("check").addEventListener("click", async (event) => {
  event.target.disabled = true;
  showError("");
  element("checking").textContent = "checking the run and its data...";
  try {
    await postStream(`/api${runPath(run, "/doctor")}`, {}, (header) => {
      if (header.event === "command") showCommand(header.command);
      if (header.event === "end") fillList(element("findings"), findingLines(header.findings));
    });
  } catch (error) {
    showError(error.message);
  }
  element("checking").textContent = "";
  event.target.disabled = false;
});
element("preview").addEventListener("input", showPreview);
onResize(drawCurves);
setPreviews();
loadCurves();
