// The settings of samples that the forms share: filled from what the model offers.
import { addOptions, getJSON } from "/static/page.js";

/** Fill the form of a run; returns what the model offers. */
export async function fillSettings(run) {
  const offer = await getJSON(`/api/run/${encodeURIComponent(run)}/describe`);
  const sampler = document.getElementById("sampler");
  sampler.options[0].text = `${offer.sampler} (of the recipe)`;
  addOptions(sampler, offer.samplers.map((s) => [s.name, s.name]));
  document.getElementById("steps").placeholder = String(offer.steps);
  if (offer.classes.length || offer.attributes.length) document.getElementById("label-field").hidden = false;
  if (offer.classes.length) addOptions(document.getElementById("classes"), ["all", ...offer.classes]);
  if (offer.attributes.length) document.getElementById("label").placeholder = offer.attributes.map((a) => `${a}=1`).join(",");
  if (offer.guided) document.getElementById("guidance-field").hidden = false;
  document.getElementById("guidance").placeholder = String(offer.guidance);
  return offer;
}

/** In words what a model is. */
export function describeModel(offer) {
  const [channels, height, width] = offer.shape;
  return `${offer.parameters.toLocaleString("en")} parameters, images ${channels}x${height}x${width}` +
    (offer.classes.length ? `, ${offer.classes.length} classes` : "");
}
