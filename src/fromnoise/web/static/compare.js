// Several runs: their curves over each other, and samples of the same seed side by side.
import { formValues, getJSON, runPath, showError } from "/static/page.js";
import { Panel, Scrubber } from "/static/panel.js";
import { curveColor, onResize, plotCurves } from "/static/plots.js";

const runs = [...document.querySelectorAll("#chosen [data-run]")].map((e) => e.dataset.run);
const state = document.getElementById("state");
let curves = [], panels = [];
const scrubber = new Scrubber(() => panels);

function draw() {
  const held = document.querySelector("input[name=curve]:checked").value === "held_out";
  plotCurves(document.getElementById("curves"), {
    title: held ? "held-out loss" : "training loss", log: true,
    series: curves.map((c, i) => ({
      label: runs[i], color: curveColor(i), x: held ? c.held_out.step : c.step, y: held ? c.held_out.loss : c.loss,
    })),
  });
}

for (const radio of document.querySelectorAll("input[name=curve]")) radio.addEventListener("change", draw);
onResize(draw);

document.getElementById("same").addEventListener("submit", async (event) => {
  event.preventDefault();
  showError("");
  const values = formValues(event.target), container = document.getElementById("panels");
  container.replaceChildren();
  panels = runs.map((run) => new Panel(container, run));
  for (const [i, run] of runs.entries()) {
    try {
      state.textContent = `sampling from ${run}...`;
      await panels[i].run(`/api${runPath(run, "/sample")}`, values, { place: i });
    } catch (error) {
      showError(`${run}: ${error.message}`);
    }
  }
  state.textContent = "";
  scrubber.open();
});

try {
  curves = await Promise.all(runs.map((run) => getJSON(`/api${runPath(run, "/curves")}`)));
  draw();
} catch (error) {
  showError(error.message);
}
