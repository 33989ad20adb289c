// The settings of samples that the forms share: filled from what the model offers.
import { addOptions, getJSON } from "/static/page.js";

/** Fill the form of a run; returns what the model offers. */
export async function fillSettings(run) {
  const offer = await getJSON(`/api/run/${encodeURIComponent(run)}/describe`);
  for (const field of document.querySelectorAll("[data-diffusion]")) field.hidden = !offer.diffusion;
  if (!offer.diffusion) return offer;
  const sampler = document.getElementById("sampler");
  sampler.options[0].text = `${offer.sampler} (of the recipe)`;
  addOptions(sampler, offer.samplers.map((s) => [s.name, s.name]));
  sampler.addEventListener("change", () => showOptions(offer.samplers, sampler.value));
  document.getElementById("steps").placeholder = String(offer.steps);
  if (offer.classes.length || offer.attributes.length) document.getElementById("label-field").hidden = false;
  if (offer.classes.length) addOptions(document.getElementById("classes"), ["all", ...offer.classes]);
  if (offer.attributes.length) document.getElementById("label").placeholder = offer.attributes.map((a) => `${a}=1`).join(",");
  if (offer.guided) document.getElementById("guidance-field").hidden = false;
  document.getElementById("guidance").placeholder = String(offer.guidance);
  return offer;
}

/** Fields for the options of the chosen component: the sampler, or the inverse solver. */
export function showOptions(components, name, box = "options", prefix = "option") {
  const chosen = components.find((c) => c.name === name);
  document.getElementById(box).replaceChildren(...(chosen?.options || []).map((option) => {
    const field = document.createElement("div"), label = document.createElement("label"), input = document.createElement("input");
    field.className = "field";
    input.id = `${prefix}-${option.name}`;
    input.name = `${prefix}.${option.name}`;
    input.placeholder = option.default;
    input.title = option.help;
    label.htmlFor = input.id;
    const words = option.name.replaceAll("_", " ");
    label.textContent = words[0].toUpperCase() + words.slice(1);
    field.append(label, input);
    return field;
  }));
}

/** In words what a model is. */
export function describeModel(offer) {
  const [channels, height, width] = offer.shape;
  const kind = offer.diffusion ? "" : offer.generative ? "a variational autoencoder: " : "an autoencoder, whose latents cannot be sampled: ";
  return `${kind}${offer.parameters.toLocaleString("en")} parameters, images ${channels}x${height}x${width}` +
    (offer.classes.length ? `, ${offer.classes.length} classes` : "");
}
