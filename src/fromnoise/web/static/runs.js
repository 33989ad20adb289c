// The cards of all runs, kept up to date.
import { fillList, numbersOf, runPath, watchRuns } from "/static/page.js";

const cards = document.getElementById("cards"), template = document.getElementById("card");

function cardOf(name) {
  for (const card of cards.children) if (card.dataset.run === name) return card;
  const card = template.content.firstElementChild.cloneNode(true);
  card.dataset.run = name;
  for (const link of card.querySelectorAll("[data-link]")) link.href = runPath(name, link.dataset.link);
  card.querySelector("input").value = name;
  card.querySelector("img").alt = `samples of ${name}`;
  return card;
}

function update(run) {
  const card = cardOf(run.name), field = (name) => card.querySelector(`[data-field="${name}"]`);
  field("name").textContent = run.name;
  field("status").textContent = run.status;
  field("status").className = `status ${run.status}`;
  field("about").textContent = run.recipe + (run.data ? ` on ${run.data}` : "");
  field("progress").value = run.progress;
  field("numbers").textContent = numbersOf(run);
  field("warning").textContent = run.warning;
  field("warning").hidden = !run.warning;
  for (const link of card.querySelectorAll("[data-needs=model]")) link.hidden = !run.sampleable;
  const image = field("preview");
  image.hidden = !run.preview;
  field("no-preview").hidden = Boolean(run.preview);
  if (run.preview) {
    const source = runPath(run.name, `/files/${run.preview}?${run.step}`);
    if (image.getAttribute("src") !== source) image.src = source;
  }
  return card;
}

watchRuns((states) => {
  const wanted = states.runs.map(update);
  wanted.forEach((card, place) => { if (cards.children[place] !== card) cards.insertBefore(card, cards.children[place] || null); });
  while (cards.children.length > wanted.length) cards.lastElementChild.remove();
  document.getElementById("empty").hidden = wanted.length > 0;
  const notes = states.starting.map((name) => `${name} is starting`);
  for (const name of states.evaluating) notes.push(`${name} is being evaluated`);
  for (const [name, line] of Object.entries(states.failures)) notes.push(`${name} ended with an error: ${line}`);
  fillList(document.getElementById("notes"), notes);
});
