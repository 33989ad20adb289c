// The settings of samples that the forms share: filled from what the model offers.
import { addOptions, getJSON } from "/static/page.js";

/** Fill the form of a run; returns what the model offers. */
export async function fillSettings(run) {
  const offer = await getJSON(`/api/run/${encodeURIComponent(run)}/describe`);
  const sampler = document.getElementById("sampler");
  sampler.options[0].text = `${offer.sampler} (of the recipe)`;
  addOptions(sampler, offer.samplers.map((s) => [s.name, s.name]));
  sampler.addEventListener("change", () => showOptions(offer.samplers));
  document.getElementById("steps").placeholder = String(offer.steps);
  if (offer.classes.length || offer.attributes.length) document.getElementById("label-field").hidden = false;
  if (offer.classes.length) addOptions(document.getElementById("classes"), ["all", ...offer.classes]);
  if (offer.attributes.length) document.getElementById("label").placeholder = offer.attributes.map((a) => `${a}=1`).join(",");
  if (offer.guided) document.getElementById("guidance-field").hidden = false;
  document.getElementById("guidance").placeholder = String(offer.guidance);
  return offer;
}

/** Fields for the options of the chosen sampler. */
export function showOptions(samplers) {
  const chosen = samplers.find((s) => s.name === document.getElementById("sampler").value);
  document.getElementById("options").replaceChildren(...(chosen?.options || []).map((option) => {
    const field = document.createElement("div"), label = document.createElement("label"), input = document.createElement("input");
    field.className = "field";
    input.id = `option-${option.name}`;
    input.name = `option.${option.name}`;
    input.placeholder = option.default;
    input.title = option.help;
    label.htmlFor = input.id;
    label.textContent = option.name.replaceAll("_", " ");
    field.append(label, input);
    return field;
  }));
}

/** In words what a model is. */
export function describeModel(offer) {
  const [channels, height, width] = offer.shape;
  return `${offer.parameters.toLocaleString("en")} parameters, images ${channels}x${height}x${width}` +
    (offer.classes.length ? `, ${offer.classes.length} classes` : "");
}
