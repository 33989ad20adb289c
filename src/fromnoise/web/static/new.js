// A new run: what the model will see, what it costs, and the start.
import {
  addOptions, fillList, findingLines, formValues, getJSON, postJSON, postStream, runPath, showCommand, showError,
} from "/static/page.js";
import { Grid } from "/static/frames.js";

const form = document.getElementById("new"), element = (id) => document.getElementById(id);
const grid = new Grid(element("images"));
element("images").removeAttribute("tabindex");
let recipes = [], checking = null, named = false, taken = new Set();

function values() {
  const found = formValues(form);
  found.labels = element("labels").checked;
  if (!found.amount) delete found.budget;
  return found;
}

/** Check the data and measure a step, by what the form says; an earlier check is cancelled. */
async function check() {
  checking?.abort();
  const own = checking = new AbortController();
  showError("");
  element("checking").textContent = "Reading the images and measuring a training step...";
  fillList(element("findings"), ["not checked yet"]);
  try {
    await postStream("/api/inspect", values(), (header, content) => {
      if (header.event === "command") showCommand(header.command);
      if (header.event === "log") element("checking").textContent = header.line;
      if (header.event === "data") {
        grid.begin(header.count, header.shape);
        grid.show(content, header.count);
        element("images").setAttribute("aria-label", `${header.count} training images`);
        const shown = header.classes.join(", ");
        element("classes").textContent = header.all ? `${header.all} classes: ${shown}${header.all > header.classes.length ? ", ..." : ""}` : "no classes";
      }
      if (header.event === "cost") fillList(element("cost"), header.lines);
      if (header.event === "findings") fillList(element("findings"), findingLines(header.findings));
      if (header.event === "end") element("checking").textContent = "";
    }, own.signal);
  } catch (error) {
    if (own !== checking) return;
    element("checking").textContent = "";
    if (error.name !== "AbortError") showError(error.message);
  }
}

const task = () => form.elements.task.value;

/** The fields of the task: a training or a clustering. */
function showTask() {
  for (const field of form.querySelectorAll("[data-task]")) {
    field.hidden = field.dataset.task !== task();
    for (const input of [field, ...field.querySelectorAll("input, select")]) input.disabled = field.hidden;
  }
  const budget = form.elements.budget;
  if (budget.selectedOptions[0].disabled) budget.value = "";
}

function describeRecipe() {
  const wanted = task() === "cluster" ? "mixture" : form.elements.recipe.value;
  const recipe = recipes.find((r) => r.name === wanted);
  if (!recipe) return;
  element("recipe-help").textContent = `Recipe: ${recipe.about}. Cost: ${recipe.cost}. Quality: ${recipe.quality}`;
  element("amount").placeholder = `${recipe.amount} ${recipe.budget}`;
  if (!named) form.elements.name.value = freeName(task() === "cluster" ? "clusters" : recipe.name);
}

/** A name that no run has. */
function freeName(name) {
  if (!taken.has(name)) return name;
  for (let i = 2; ; i++) if (!taken.has(`${name}-${i}`)) return `${name}-${i}`;
}

form.elements.name.addEventListener("input", () => { named = true; });
for (const id of ["recipe", "task"]) element(id).addEventListener("change", () => { showTask(); describeRecipe(); check(); });
for (const id of ["data", "labels", "budget", "amount", "clusters", "limit"]) element(id).addEventListener("change", check);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  element("start").disabled = true;
  showError("");
  checking?.abort();
  try {
    const started = await postJSON("/api/start", values());
    showCommand(started.command);
    element("checking").textContent = `${started.run} is starting...`;
    await opened(started.run);
  } catch (error) {
    showError(error.message);
    element("start").disabled = false;
  }
});

/** Go to the page of the run when it is there. */
async function opened(name) {
  const events = new EventSource("/api/events");
  events.onmessage = (event) => {
    const states = JSON.parse(event.data);
    if (states.runs.some((r) => r.name === name)) location.href = runPath(name);
    if (states.failures[name]) {
      events.close();
      showError(states.failures[name]);
      element("checking").textContent = "";
      element("start").disabled = false;
    }
  };
}

async function open() {
  try {
    const choices = await getJSON("/api/choices");
    recipes = choices.recipes;
    taken = new Set(choices.runs);
    const data = element("data"), recipe = element("recipe");
    data.replaceChildren();
    addOptions(data, [...choices.folders, ...choices.data]);
    data.value = choices.folders[0] || "digits";
    recipe.replaceChildren();
    addOptions(recipe, recipes.map((r) => r.name));
    recipe.value = choices.folders.length ? "images" : "digits";
    showTask();
    describeRecipe();
  } catch (error) {
    showError(error.message);
  }
  check();
}
open();
