// What every page has: messages, requests and the button that copies the command.

const error = document.getElementById("error");

/** Show a message, or hide it when there is none. */
export function showError(message) {
  error.textContent = message || "";
  error.hidden = !message;
}

const commands = [];

/** Show the command line that does the same; that of another panel goes below those before it. */
export function showCommand(command, place = 0) {
  commands.length = place;
  commands.push(command);
  document.getElementById("command").textContent = commands.join("\n");
}

/** The path of a run. */
export function runPath(run, rest = "") {
  return `/run/${encodeURIComponent(run)}${rest}`;
}

/** The parsed JSON of an answer; its error is thrown. */
async function parsed(response) {
  const text = await response.text();
  let values;
  try {
    values = JSON.parse(text);
  } catch {
    throw new Error(text.trim() || `the server answered ${response.status}`);
  }
  if (!response.ok) throw new Error(values.error || `the server answered ${response.status}`);
  return values;
}

/** Get JSON. */
export async function getJSON(path) {
  return parsed(await fetch(path));
}

/** Post JSON, get JSON. */
export async function postJSON(path, values = {}) {
  return parsed(await fetch(path, jsonRequest(values)));
}

/** Post an image, get JSON. */
export async function postImage(path, blob) {
  return parsed(await fetch(path, { method: "POST", body: blob, headers: { "content-type": "application/octet-stream" } }));
}

function jsonRequest(values) {
  return { method: "POST", body: JSON.stringify(values), headers: { "content-type": "application/json" } };
}

/** Post JSON; call onAnswer(header, bytes) for each answer of the stream as it comes. An error of the job is thrown. */
export async function postStream(path, values, onAnswer, signal) {
  const response = await fetch(path, { ...jsonRequest(values), signal });
  if (!response.ok) return parsed(response);
  const reader = response.body.getReader();
  let held = new Uint8Array(0), header = null;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held = joined(held, value);
    for (;;) {
      if (!header) {
        const end = held.indexOf(10);
        if (end < 0) break;
        header = JSON.parse(new TextDecoder().decode(held.subarray(0, end)));
        held = held.subarray(end + 1);
      }
      if (held.length < header.bytes) break;
      const content = held.slice(0, header.bytes);
      held = held.subarray(header.bytes);
      const answer = header;
      header = null;
      if (answer.event === "error") throw new Error(answer.message);
      onAnswer(answer, content);
    }
  }
}

function joined(a, b) {
  if (!a.length) return b;
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

/** The fields of a form; empty ones are left out. */
export function formValues(form) {
  const values = {};
  for (const [key, value] of new FormData(form)) if (value !== "") values[key] = value;
  return values;
}

/** Fill a select with options, each a word or [value, text]. */
export function addOptions(select, options) {
  for (const option of options) {
    const [value, text] = Array.isArray(option) ? option : [option, option];
    select.append(new Option(text, value));
  }
}

/** Replace the items of a list. */
export function fillList(list, texts) {
  list.replaceChildren(...texts.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
}

/** The problems that were found, as lines. */
export function findingLines(findings) {
  return findings.length ? findings.map((f) => `${f.problem}: ${f.remedy}`) : ["none"];
}

/** Seconds in words. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds > 5400) return `${(seconds / 3600).toFixed(1)} h`;
  return seconds > 90 ? `${(seconds / 60).toFixed(1)} min` : `${Math.round(seconds)} s`;
}

/** The numbers of a run in a line. */
export function numbersOf(run) {
  const parts = [];
  if (run.step) parts.push(`step ${run.step.toLocaleString("en")}`);
  if (run.loss !== null) parts.push(`loss ${run.loss.toPrecision(3)}`);
  if (run.images_per_second) parts.push(`${Math.round(run.images_per_second).toLocaleString("en")} images/s`);
  if (run.remaining !== null) parts.push(`${duration(run.remaining)} left`);
  return parts.join(" · ");
}

/** Call onStates(states) with the states of all runs whenever one changes. */
export function watchRuns(onStates) {
  const source = new EventSource("/api/events");
  source.onmessage = (event) => onStates(JSON.parse(event.data));
}

document.getElementById("copy")?.addEventListener("click", async (event) => {
  await navigator.clipboard.writeText(document.getElementById("command").textContent);
  event.target.textContent = "Copied";
  setTimeout(() => { event.target.textContent = "Copy"; }, 1500);
});
