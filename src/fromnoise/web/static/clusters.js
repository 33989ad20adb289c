// The map of a clustering: a point an image, which is shown when pointed at; clusters can be hidden.
import { runPath, showError } from "/static/page.js";
import { curveColor } from "/static/plots.js";

const run = document.getElementById("clusters").dataset.run, element = (id) => document.getElementById(id);
const map = element("map"), context = map.getContext("2d"), EDGE = 12, COLUMNS = 50;
let points = [], names = [], hidden = new Set(), sheet = null, side = [8, 8], chosen = -1;

function parseTable(text) {
  const rows = text.trim().split("\n").slice(1).map((line) => /^(\d+),([^,]+),([^,]+),(.*),([^,]+)$/.exec(line)).filter(Boolean);
  const unquoted = (cell) => (cell.startsWith('"') ? cell.slice(1, -1).replaceAll('""', '"') : cell);
  return rows.map(([, index, x, y, cluster, p]) => ({ index, x: Number(x), y: Number(y), cluster: unquoted(cluster), p: Number(p) }));
}

function scale() {
  const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  for (const p of points) {
    p.px = EDGE + ((p.x - left) / (right - left || 1)) * (map.width - 2 * EDGE);
    p.py = EDGE + ((high - p.y) / (high - low || 1)) * (map.height - 2 * EDGE);
  }
}

function draw() {
  context.clearRect(0, 0, map.width, map.height);
  points.forEach((p, i) => {
    if (hidden.has(p.cluster)) return;
    context.fillStyle = curveColor(names.indexOf(p.cluster));
    context.beginPath();
    context.arc(p.px, p.py, i === chosen ? 7 : 3, 0, 7);
    context.fill();
  });
}

function choose(i) {
  chosen = i;
  const p = points[i], canvas = element("image");
  [canvas.width, canvas.height] = side;
  canvas.getContext("2d").drawImage(sheet, (i % COLUMNS) * side[0], Math.floor(i / COLUMNS) * side[1], ...side, 0, 0, ...side);
  element("caption").textContent = `image ${p.index}: cluster ${p.cluster}, probability ${p.p.toFixed(2)}`;
  draw();
}

function nearest(event) {
  const box = map.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * map.width, y = ((event.clientY - box.top) / box.height) * map.height;
  let best = -1, least = 400;
  points.forEach((p, i) => {
    const d = (p.px - x) ** 2 + (p.py - y) ** 2;
    if (d < least && !hidden.has(p.cluster)) [best, least] = [i, d];
  });
  if (best >= 0 && best !== chosen) choose(best);
}

for (const name of ["pointermove", "pointerdown"]) map.addEventListener(name, nearest);
map.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!by || !points.length) return;
  event.preventDefault();
  for (let i = chosen + by; i >= 0 && i < points.length; i += by) if (!hidden.has(points[i].cluster)) return choose(i);
});

function legend() {
  const rows = names.map((name, i) => {
    const label = document.createElement("label"), box = document.createElement("input"), swatch = document.createElement("span");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => { hidden[box.checked ? "delete" : "add"](name); draw(); });
    swatch.className = "swatch";
    swatch.style.background = curveColor(i);
    label.append(box, swatch, ` ${name} (${points.filter((p) => p.cluster === name).length})`);
    return label;
  });
  element("legend").append(...rows);
}

try {
  const [table, image] = await Promise.all(["map.csv", "map_images.png"].map((name) => fetch(runPath(run, `/files/${name}`))));
  if (!table.ok || !image.ok) throw new Error("the files of the map cannot be read");
  points = parseTable(await table.text());
  sheet = await createImageBitmap(await image.blob());
  side = [sheet.width / COLUMNS, sheet.height / Math.ceil(points.length / COLUMNS)];
  names = [...new Set(points.map((p) => p.cluster))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  scale();
  legend();
  draw();
} catch (error) {
  showError(error.message);
}
