// What a model has learned: its schedule, bits by step, and quality against cost.
import { formValues, getJSON, postStream, runPath, showCommand, showError } from "/static/page.js";
import { onResize, plotCurves } from "/static/plots.js";

const element = (id) => document.getElementById(id), run = element("understand").dataset.run, state = element("state");
let schedule = null, curve = null, evaluations = [], stopping = null;

function draw() {
  if (schedule) {
    plotCurves(element("logsnr"), { title: "log-SNR", x: "t", series: [{ label: "log SNR", x: schedule.t, y: schedule.logsnr }] });
    plotCurves(element("scales"), {
      title: "scales of image and noise", x: "t",
      series: [{ label: "alpha", x: schedule.t, y: schedule.alpha }, { label: "sigma", x: schedule.t, y: schedule.sigma }],
    });
  }
  if (curve) {
    const each = curve.rates.slice(1).map((rate, i) => rate - curve.rates[i]);
    plotCurves(element("bits"), {
      title: "bits/dim of each reverse step", x: "reverse step", series: [{ label: "bits/dim", x: curve.steps.slice(1), y: each }],
    });
    plotCurves(element("rate"), {
      title: `rate and distortion, lossless at ${curve.lossless.toFixed(3)} bits/dim`, x: "bits/dim",
      series: [{ label: "RMSE on 0-255", x: curve.rates, y: curve.distortions }],
    });
  }
  if (evaluations.length > 1) {
    const byCost = [...evaluations].sort((a, b) => a.nfe - b.nfe);
    plotCurves(element("quality"), {
      title: "Frechet distance against evaluations of the network", x: "NFE", points: true,
      series: [
        { label: "samples", x: byCost.map((e) => e.nfe), y: byCost.map((e) => e.value) },
        { label: "real images", x: byCost.map((e) => e.nfe), y: byCost.map((e) => e.real_vs_real), dash: [4, 4] },
      ],
    });
  }
}

function fillTable() {
  const rows = evaluations.map((e) => {
    const row = document.createElement("tr");
    const shown = [e.report, e.name, e.nfe, e.value?.toPrecision(3), e.error?.toPrecision(2), e.real_vs_real?.toPrecision(3), e.n];
    for (const value of shown) row.insertCell().textContent = value ?? "-";
    return row;
  });
  element("evaluations").tBodies[0].replaceChildren(...rows);
  element("evaluations").hidden = !rows.length;
}

element("measure").addEventListener("submit", async (event) => {
  event.preventDefault();
  showError("");
  stopping = new AbortController();
  element("go").disabled = true;
  element("cancel").hidden = false;
  try {
    await postStream(`/api${runPath(run, "/rate")}`, formValues(event.target), (header) => {
      if (header.event === "command") showCommand(header.command);
      if (header.event === "progress") state.textContent = `step ${header.done} of ${header.total}`;
      if (header.event === "end" && header.steps) curve = header;
    }, stopping.signal);
    state.textContent = "";
    draw();
  } catch (error) {
    if (error.name === "AbortError") state.textContent = "cancelled";
    else showError(error.message);
  } finally {
    element("go").disabled = false;
    element("cancel").hidden = true;
  }
});
element("cancel").addEventListener("click", () => stopping?.abort());
onResize(draw);

try {
  evaluations = await getJSON(`/api${runPath(run, "/evaluations")}`);
  fillTable();
  const offer = await getJSON(`/api${runPath(run, "/describe")}`);
  schedule = offer.schedule;
  element("go").disabled = !offer.diffusion;
  state.textContent = offer.diffusion ? "" : "an autoencoder has no noise schedule and no reverse steps";
  draw();
} catch (error) {
  state.textContent = "";
  showError(error.message);
}
