// Draws a map on a canvas. `props.value` is the JSON to draw; names and labels in it come from datasets
// of strangers, so they only ever become text, never HTML.
const $ = (selector) => element.querySelector(selector);
const canvas = $("canvas"), frame = $(".map-frame"), card = $(".map-card"), legend = $(".map-legend");
const TEXT = {
  name: "Map of the gallery: each point is an image", query: "your query", hits: "its closest images", hit: "result",
  unlabelled: "no label",
};
const palette = PALETTE;  // filled in by the server
const ink = canvas.getContext("2d");
const REACH = { mouse: 12, pen: 16, touch: 24 };  // px around the pointer in which the nearest point is meant
const MARGIN = 28, MAX_ZOOM = 60, DRAG = 4;  // px, times, px

canvas.setAttribute("aria-label", TEXT.name);

let data = null;  // what the server sent
let items = [];  // everything that can be pointed at: {x, y, label, name, position, rank, query}
let view = { zoom: 1, x: 0, y: 0 };  // the centre, in coordinates of the map
let fit = { scale: 1, x: 0, y: 0 };  // how the whole map fits into the canvas
let found = null;  // the item under pointer or keyboard
let only = null;  // the label that is shown alone
let drag = null;
const thumbnails = new Map();

function take() {
  if (!props.value) return;
  const before = data && data.key;
  data = JSON.parse(props.value);
  items = data.points.map(([x, y, label, position, name]) => ({ x, y, label, position, name }));
  const at = new Map(items.map((item) => [item.position, item]));
  for (const [x, y, label, position, name] of data.hits) {  // a hit need not be in the sample that is drawn
    if (!at.has(position)) at.set(position, items[items.push({ x, y, label, position, name }) - 1]);
    at.get(position).rank = data.hits.findIndex((hit) => hit[3] === position) + 1;
  }
  if (data.query) {
    const [x, y, label, position, name] = data.query;
    if (position === null || !at.has(position)) at.set(position, items[items.push({ x, y, label, position, name }) - 1]);
    at.get(position).query = true;
  }
  if (data.key !== before) {
    thumbnails.clear();
    only = null;
    view.zoom = 1;
  }
  found = (found && data.key === before && at.get(found.position)) || null;
  canvas.setAttribute("aria-label", `${TEXT.name}. ${items.length}`);
  bounds();
  list();
  show(found);
}

function bounds() {
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!items.length || !width) return;
  const xs = items.map((item) => item.x), ys = items.map((item) => item.y);
  const low = (values) => values.reduce((a, b) => Math.min(a, b)), high = (values) => values.reduce((a, b) => Math.max(a, b));
  const [left, right, bottom, top] = [low(xs), high(xs), low(ys), high(ys)];
  const room = (size) => Math.max(1, size - 2 * MARGIN);
  // One scale for both axes: a distance is a distance in every direction.
  const scale = Math.min(room(width) / (right - left || 1e-9), room(height) / (top - bottom || 1e-9));
  fit = { scale: Math.min(scale, 1e6), x: (left + right) / 2, y: (bottom + top) / 2 };
  if (view.zoom === 1) view = { zoom: 1, x: fit.x, y: fit.y };
}

const scale = () => fit.scale * view.zoom;
const across = (item) => canvas.clientWidth / 2 + (item.x - view.x) * scale();
const down = (item) => canvas.clientHeight / 2 - (item.y - view.y) * scale();

function zoom(times, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const before = scale();
  view.zoom = Math.min(MAX_ZOOM, Math.max(1, view.zoom * times));
  // The point under the pointer stays in place.
  view.x += (x - canvas.clientWidth / 2) * (1 / before - 1 / scale());
  view.y -= (y - canvas.clientHeight / 2) * (1 / before - 1 / scale());
  if (view.zoom === 1) view = { zoom: 1, x: fit.x, y: fit.y };
  canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y";  // on an unzoomed map a finger scrolls the page
  show(found);
}

const looks = () => (document.body.classList.contains("dark") || element.closest(".dark") ? palette.dark : palette.light);
const named = (label) => label < palette.coloured && data.labels[label][0] !== "";

function shape(brush, label, x, y, size) {
  const look = looks();
  brush.fillStyle = named(label) ? look.colours[label % look.colours.length] : look.other;
  brush.beginPath();
  if (!named(label)) brush.arc(x, y, size * 0.75, 0, 7);
  else if (label < look.colours.length) brush.arc(x, y, size, 0, 7);
  else {
    brush.moveTo(x, y - size * 1.3);
    brush.lineTo(x + size * 1.2, y + size * 0.9);
    brush.lineTo(x - size * 1.2, y + size * 0.9);
  }
  brush.fill();
}

function ring(brush, x, y, size, width) {  // with a halo of the page's colour, so that it stands out from any point
  const look = looks();
  for (const [style, extra] of [[look.page, 3], [look.text, 0]]) {
    brush.strokeStyle = style;
    brush.lineWidth = width + extra;
    brush.beginPath();
    brush.arc(x, y, size, 0, 7);
    brush.stroke();
  }
}

function diamond(brush, x, y, size) {
  const look = looks();
  brush.beginPath();
  brush.moveTo(x, y - size);
  brush.lineTo(x + size, y);
  brush.lineTo(x, y + size);
  brush.lineTo(x - size, y);
  brush.closePath();
  brush.lineWidth = 3;
  brush.strokeStyle = look.page;
  brush.stroke();
  brush.fillStyle = look.text;
  brush.fill();
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    paint();
  });
}

function paint() {
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
  if (!data || !width) return;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, width, height);
  const size = (items.length > 2500 ? 2 : 3) * Math.min(2.2, Math.sqrt(view.zoom));
  const group = (item) => (named(item.label) ? item.label : -1);
  for (const colour of [-1, ...data.labels.keys()].slice(0, palette.coloured + 1)) {
    ink.globalAlpha = only === null || only === colour ? 0.85 : 0.1;
    for (const item of items) if (group(item) === colour && item.position !== null) shape(ink, item.label, across(item), down(item), size);
  }
  ink.globalAlpha = 1;
  const look = looks();
  ink.font = "600 11px system-ui, sans-serif";
  ink.textBaseline = "middle";
  for (const item of items.filter((each) => each.rank).reverse()) {
    ring(ink, across(item), down(item), size + 3, 1.75);
    ink.lineWidth = 3;
    ink.strokeStyle = look.page;
    ink.strokeText(item.rank, across(item) + size + 6, down(item));
    ink.fillStyle = look.text;
    ink.fillText(item.rank, across(item) + size + 6, down(item));
  }
  for (const item of items) if (item.query) diamond(ink, across(item), down(item), 9);
  if (found) ring(ink, across(found), down(found), size + 6, 3);
}

function described(item) {
  if (item.position === null) return TEXT.query;
  const parts = [item.name, data.labels[item.label][0] || TEXT.unlabelled];
  if (item.query) parts.push(TEXT.query);
  else if (item.rank) parts.push(`${TEXT.hit} ${item.rank}`);
  return parts.join(" · ");
}

let asking = null;
function show(item, aloud = false) {
  found = item;
  draw();
  card.hidden = !item;
  clearTimeout(asking);
  canvas.style.cursor = item && item.position !== null ? "pointer" : "default";
  card.querySelector("span").textContent = item ? described(item) : "";
  if (!item) return;
  if (aloud) $("[aria-live]").textContent = described(item);
  const picture = card.querySelector("img");
  const known = thumbnails.get(item.position);
  picture.hidden = !known;
  if (known) picture.src = known;
  place();
  // Requested once the pointer rests, so that moving across the map does not request hundreds.
  if (known === undefined && item.position !== null) asking = setTimeout(async () => {
    const key = data.key;
    const answer = await server.thumbnail([data.gallery, data.build, item.position]);
    if (data.key !== key || typeof answer !== "string" || !answer.startsWith("data:image/")) return;
    thumbnails.set(item.position, answer);
    if (found && found.position === item.position) show(found);
  }, 60);
}

function place() {
  const room = 14, x = across(found), y = down(found);
  const left = x + room + card.offsetWidth > frame.clientWidth ? x - room - card.offsetWidth : x + room;
  card.style.left = `${Math.max(0, Math.min(left, frame.clientWidth - card.offsetWidth))}px`;
  card.style.top = `${Math.max(0, Math.min(y - card.offsetHeight / 2, frame.clientHeight - card.offsetHeight))}px`;
}

function nearest(x, y, reach) {
  let best = null, least = reach * reach;
  for (const item of items) {
    if (only !== null && only !== (named(item.label) ? item.label : -1) && !item.query && !item.rank) continue;
    const distance = (across(item) - x) ** 2 + (down(item) - y) ** 2;
    if (distance < least) [best, least] = [item, distance];
  }
  return best;
}

// The nearest point in the quarter of the plane that an arrow key points to. Images at the same place follow one
// another, so that each can be reached.
function next(dx, dy) {
  const here = items.indexOf(found);
  let best = null, least = Infinity;
  items.forEach((item, i) => {
    const x = item.x - found.x, y = item.y - found.y;
    const along = x * dx + y * dy, aside = Math.abs(x * dy) + Math.abs(y * dx);
    if (x === 0 && y === 0 ? (i - here) * (dx + dy) <= 0 : along <= 0 || aside > along) return;
    const distance = x * x + y * y || Math.abs(i - here) * 1e-12;
    if (distance < least) [best, least] = [item, distance];
  });
  return best;
}

const start = () => items.find((item) => item.query) || items.find((item) => item.rank === 1)
  || nearest(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity);

function go(item) {
  if (!item) return;
  const x = across(item), y = down(item);
  if (x < 0 || y < 0 || x > canvas.clientWidth || y > canvas.clientHeight) [view.x, view.y] = [item.x, item.y];
  show(item, true);
}

function choose(item) {
  if (item && item.position !== null) trigger("select", { gallery: data.gallery, build: data.build, position: item.position });
}

canvas.addEventListener("keydown", (event) => {
  const arrows = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in arrows) go(found ? next(...arrows[event.key]) : start());
  else if (event.key === "Enter" || event.key === " ") choose(found);
  else if (event.key === "Escape") show(null);
  else if (event.key === "+" || event.key === "=") zoom(1.6, found ? across(found) : undefined, found ? down(found) : undefined);
  else if (event.key === "-") zoom(1 / 1.6);
  else if (event.key === "0") zoom(0);
  else return;
  event.preventDefault();
});
canvas.addEventListener("focus", () => {
  if (canvas.matches(":focus-visible") && !found && items.length) go(start());
});
canvas.addEventListener("blur", () => show(null));

canvas.addEventListener("pointerdown", (event) => {
  if (event.button === 0) drag = { x: event.offsetX, y: event.offsetY, moved: false, before: found };
});
canvas.addEventListener("pointermove", (event) => {
  const x = event.offsetX, y = event.offsetY;
  if (drag && (drag.moved || Math.hypot(x - drag.x, y - drag.y) > DRAG)) {
    if (!drag.moved) canvas.setPointerCapture(event.pointerId);
    view.x -= (x - drag.x) / scale();
    view.y += (y - drag.y) / scale();
    drag = { ...drag, x, y, moved: true };
    if (view.zoom === 1) view = { zoom: 1, x: fit.x, y: fit.y };
    show(null);
  } else if (event.pointerType !== "touch") {
    const under = nearest(x, y, REACH[event.pointerType] || REACH.mouse);
    if (under !== found) show(under);
  }
});
canvas.addEventListener("pointerup", (event) => {
  const still = drag && !drag.moved, before = drag && drag.before;
  drag = null;
  if (!still) return;
  const under = nearest(event.offsetX, event.offsetY, REACH[event.pointerType] || REACH.mouse);
  // A finger cannot hover: the first tap shows the image, the second searches with it.
  if (event.pointerType === "touch" && under !== before) show(under, true);
  else choose(under);
});
canvas.addEventListener("pointercancel", () => { drag = null; });
canvas.addEventListener("pointerleave", (event) => {  // lifting a finger triggers this too, but its point stays shown
  if (event.pointerType !== "touch" && !drag && document.activeElement !== canvas) show(null);
});
canvas.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;  // a plain wheel scrolls the page
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 200), event.offsetX, event.offsetY);
}, { passive: false });
for (const [name, times] of [["in", 1.6], ["out", 1 / 1.6], ["all", 0]])
  $(`.map-${name}`).addEventListener("click", () => zoom(times));

function swatch(paintInto) {
  const small = document.createElement("canvas"), ratio = 2;
  small.width = small.height = 18 * ratio;
  const brush = small.getContext("2d");
  brush.scale(ratio, ratio);
  paintInto(brush);
  return small;
}

function list() {
  legend.replaceChildren();
  const add = (colour, label, text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(only === colour));
    button.append(swatch((brush) => shape(brush, label, 9, 9, 5)), text);
    button.addEventListener("click", () => {
      only = only === colour ? null : colour;
      for (const each of legend.querySelectorAll("button")) each.setAttribute("aria-pressed", String(each === button && only !== null));
      show(null);
    });
    legend.append(button);
  };
  const count = (number) => number.toLocaleString("en");
  const coloured = data.labels.filter((_, label) => named(label));
  coloured.forEach(([name, number], label) => add(label, label, `${name} ${count(number)}`));
  const rest = data.labels.filter((_, label) => !named(label));
  const text = rest.every(([name]) => name === "") ? TEXT.unlabelled : palette.other;
  if (rest.length) add(-1, palette.coloured + 1, `${text} ${count(rest.reduce((sum, each) => sum + each[1], 0))}`);
  const explain = (paintInto, words) => {
    const line = document.createElement("span");
    line.append(swatch(paintInto), words);
    legend.append(line);
  };
  if (data.query) explain((brush) => diamond(brush, 9, 9, 7), TEXT.query);
  if (data.hits.length) explain((brush) => ring(brush, 9, 9, 6, 1.75), TEXT.hits);
}

new ResizeObserver(() => { bounds(); draw(); }).observe(canvas);
watch("value", take);
take();
