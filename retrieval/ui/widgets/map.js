// Shows a map: dots on a canvas behind a frame, and elements over them on a plane in it, which is larger than the frame when
// zoomed in, so that the browser scrolls it. Places are in percent of the plane. `props.value` is JSON; names and labels in
// it come from datasets of strangers, so they only ever become text, never HTML.
const $ = (selector) => element.querySelector(selector);
const frame = $(".map-frame"), plane = $(".map-plane"), over = $(".map-over"), card = $(".map-card"), legend = $(".map-legend");
const TEXT = { name: "Map of the gallery: each point is an image", query: "your query", hits: "its closest images", hit: "result", unlabelled: "no label" };
const OTHER = COLOURED;  // the group of all labels without a colour of their own; filled in by the server
const REACH = { mouse: 12, pen: 16, touch: 24 };  // px around the pointer in which the nearest point is meant
const MAX_ZOOM = 32, PICTURES_FROM = 2.5, PICTURE = 64, DRAG = 4;  // times, times, px, px
const canvas = $("canvas"), ink = canvas.getContext("2d"), still = matchMedia("(prefers-reduced-motion: reduce)");
const DOT = 7, MOVE = 800;  // px, ms
const root = window.gradio_config?.root ?? "";
let data = null, items = [], zoom = 1, found = null, only = null, drag = null;  // `found`: under pointer or keyboard
let began = -Infinity, asked = 0;  // when the dots began to move to this layout, and a frame that will draw them

function make(tag, className, text = "", item = null) {
  const made = document.createElement(tag);
  Object.assign(made, { className, textContent: text });
  if (item) Object.assign(made.style, { left: `${item.x}%`, top: `${item.y}%` });
  return made;
}

const group = (item) => item.label < OTHER && data.labels[item.label][0] ? item.label : OTHER;
const shown = (item) => only === null || only === group(item) || item.query || item.rank;
const source = (item) => `${root}${data.thumbnails}/${String(Math.floor(item.row / FOLDER_ROWS)).padStart(6, "0")}/${String(item.row).padStart(12, "0")}.jpg`;

function take() {
  if (!props.value) return;
  const before = data?.key, build = data?.build;
  data = JSON.parse(props.value);
  const read = ([x, y, label, position, row, name]) => ({ x, y, label, position, row, name });
  const places = new Map(data.build === build ? items.map((item) => [item.position, item]) : []);
  items = data.points.map(read);
  for (const item of items) item.from = places.get(item.position);
  const at = new Map(items.map((item) => [item.position, item]));
  const mark = (point, marks) => {  // it need not be in the sample that is drawn
    const item = read(point), known = item.position === null ? null : at.get(item.position);
    if (!known) at.set(item.position, items[items.push(item) - 1]);
    Object.assign(known ?? item, marks);
  };
  data.hits.forEach((hit, i) => mark(hit, { rank: i + 1 }));
  if (data.query) mark(data.query, { query: true });
  items.sort((a, b) => group(b) - group(a));  // frequent labels are drawn on top
  plane.classList.toggle("equal", data.equal);
  frame.setAttribute("aria-label", `${TEXT.name}. ${items.length}`);
  list();
  if (data.key !== before) {
    if (places.size && !still.matches) began = performance.now();
    if (!places.size) only = null;
    zoomBy(0);
  }
  show((data.key === before && found && at.get(found.position)) || null);
  cover();
}

// A dot of each group: a disc, or a ring for the second half of the labels.
function stamps(ratio) {
  return Array.from({ length: OTHER + 1 }, (_, i) => {
    const stamp = document.createElement("canvas"), brush = stamp.getContext("2d"), size = i < OTHER ? DOT : DOT - 2;
    stamp.width = stamp.height = Math.ceil(DOT * ratio) + 1;
    Object.assign(brush, { fillStyle: getComputedStyle(legend.querySelector(`.group-${i}`) ?? frame).getPropertyValue("--colour"), globalAlpha: 0.85 });
    brush.arc(stamp.width / 2, stamp.width / 2, size * ratio / 2, 0, 7);
    brush.fill();
    brush.globalCompositeOperation = "destination-out";
    brush.globalAlpha = 1;
    brush.beginPath();
    brush.arc(stamp.width / 2, stamp.width / 2, i >= OTHER / 2 && i < OTHER ? size * ratio / 5 : 0, 0, 7);
    brush.fill();
    return stamp;
  });
}

function draw() {
  asked = 0;
  const ratio = devicePixelRatio || 1, [width, height] = [frame.clientWidth, frame.clientHeight];
  if (!data || !width) return;
  Object.assign(canvas, { width: width * ratio, height: height * ratio });  // which clears it
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const share = Math.min(1, (performance.now() - began) / MOVE), eased = share * share * (3 - 2 * share), drawn = stamps(ratio);
  const [left, top, across, down] = [plane.offsetLeft - frame.scrollLeft, plane.offsetTop - frame.scrollTop, plane.offsetWidth / 100, plane.offsetHeight / 100];
  for (const item of items) {
    if (only !== null && only !== group(item)) continue;
    const from = item.from ?? item, stamp = drawn[group(item)];
    const x = left + (from.x + (item.x - from.x) * eased) * across, y = top + (from.y + (item.y - from.y) * eased) * down;
    if (x > -DOT && y > -DOT && x < width + DOT && y < height + DOT) ink.drawImage(stamp, Math.round(x * ratio - stamp.width / 2), Math.round(y * ratio - stamp.width / 2));
  }
  if (share < 1) drawSoon();
}

const drawSoon = () => { asked ||= requestAnimationFrame(draw); };

// What lies over the dots: names of groups, the images themselves when zoomed in, and the marks.
function cover() {
  if (!data) return;
  drawSoon();
  const box = over.getBoundingClientRect(), view = frame.getBoundingClientRect(), taken = new Set();
  const [left, right] = [view.left, view.right].map((at) => (at - box.left) * 100 / box.width);
  const [top, bottom] = [view.top, view.bottom].map((at) => (at - box.top) * 100 / box.height);
  const visible = ({ x, y }) => x > left && x < right && y > top && y < bottom;
  const free = (item) => {
    const cell = [item.x * box.width, item.y * box.height].map((at) => Math.floor(at / 100 / PICTURE)).join();
    return !taken.has(cell) && taken.add(cell);
  };
  const parts = new Map();
  const add = (key, build) => parts.set(key, [...over.children].find((each) => each.dataset.key === key) ?? build());
  if (zoom >= PICTURES_FROM) for (const item of items) if (item.position !== null && shown(item) && visible(item) && free(item)) add(`${data.key} ${item.position}`, () => {
    const image = make("img", `group-${group(item)}`, "", item);
    image.src = source(item);
    return image;
  });
  const marks = items.filter((item) => item.rank || item.query);
  const above = (middle, height, wide) => {  // the height at which no mark hides a name, in pixels
    const near = marks.find((mark) => Math.abs(mark.x * box.width / 100 - middle) < wide / 2 + 14 && Math.abs(mark.y * box.height / 100 - height) < 19);
    return near ? above(middle, near.y * box.height / 100 - 20, wide) : height;
  };
  ink.font = `600 ${0.8 * parseFloat(getComputedStyle(document.documentElement).fontSize)}px ${getComputedStyle(over).fontFamily}`;
  const widthOf = (text) => Math.min(224, ink.measureText(text).width + 8);  // of a name, as map.css draws it
  const named = [];  // the middles and widths of the names so far, which others must not cover
  for (const [label, x, y] of only === null ? data.names : []) {
    const text = data.labels[label][0], key = `${data.key} name ${label}`, wide = widthOf(text);
    const middle = x * box.width / 100 + (0.5 - x / 100) * wide;
    const height = Math.max(box.height / 100, above(middle, y * box.height / 100, wide));
    if (named.some(([at, up, other]) => Math.abs(at - middle) < (other + wide) / 2 && Math.abs(up - height) < 17)) continue;
    named.push([middle, height, wide]);
    add(key, () => make("span", "map-name", text, { x }));
    // Inside the plane, even at its edge.
    Object.assign(parts.get(key).style, { top: `${100 * height / box.height}%`, translate: `-${x}% -50%` });
  }
  const numbered = [];
  for (const item of marks.filter((mark) => mark.rank).sort((one, other) => one.rank - other.rank)) {
    const crowded = numbered.some((mark) => Math.hypot((mark.x - item.x) * box.width, (mark.y - item.y) * box.height) < 1800);  // 18 px
    if (!crowded) numbered.push(item);
    add(`${data.key} ${item.position} hit ${item.rank} ${crowded}`, () => make("b", crowded ? "map-hit crowded" : "map-hit", crowded ? "" : item.rank, item));
  }
  if (marks.some((mark) => mark.query)) add("query", () => make("i", "map-query"));
  for (const [key, part] of parts) part.dataset.key = key;
  const query = items.find((item) => item.query);
  if (query) Object.assign(parts.get("query").style, { left: `${query.x}%`, top: `${query.y}%` });
  for (const old of [...over.children]) if (!parts.has(old.dataset.key)) old.remove();
  for (const part of parts.values()) if (!part.isConnected) over.append(part);
}

function zoomBy(times, x = frame.clientWidth / 2, y = frame.clientHeight / 2) {
  const before = zoom;
  zoom = Math.min(MAX_ZOOM, Math.max(1, zoom * times));
  const [left, top] = [(frame.scrollLeft + x) * zoom / before - x, (frame.scrollTop + y) * zoom / before - y];  // the point at x, y stays
  plane.style.setProperty("--zoom", zoom);
  frame.scrollTo({ left, top, behavior: "instant" });
  cover();
  show(found);
}

const place = (item) => [plane.offsetLeft + item.x * plane.offsetWidth / 100 - frame.scrollLeft, plane.offsetTop + item.y * plane.offsetHeight / 100 - frame.scrollTop];
const described = (item) => [item.name, item.position !== null && data.labels[item.label][0], item.rank && `${TEXT.hit} ${item.rank}`, item.query && TEXT.query].filter(Boolean).join(" · ");

function show(item, aloud = false) {
  found = item;
  card.hidden = !item;
  frame.style.cursor = item && item.position !== null ? "pointer" : "";
  card.querySelector("span").textContent = item ? described(item) : "";
  if (!item) return;
  if (aloud) $("[aria-live]").textContent = described(item);
  const image = card.querySelector("img"), room = 14, [x, y] = place(item);
  image.hidden = item.position === null;
  if (!image.hidden) image.src = source(item);
  const left = x + room + card.offsetWidth > frame.clientWidth ? x - room - card.offsetWidth : x + room;
  card.style.left = `${Math.max(0, Math.min(left, frame.clientWidth - card.offsetWidth))}px`;
  card.style.top = `${Math.max(0, Math.min(y - card.offsetHeight / 2, frame.clientHeight - card.offsetHeight))}px`;
}

function nearest(x, y, reach) {
  let best = null, least = reach * reach;
  const [width, height] = [plane.clientWidth / 100, plane.clientHeight / 100];
  for (const item of items) {
    const distance = ((item.x - x) * width) ** 2 + ((item.y - y) * height) ** 2;
    if (distance < least && shown(item)) [best, least] = [item, distance];
  }
  return best;
}

function under(event) {
  const box = over.getBoundingClientRect();
  return nearest((event.clientX - box.left) * 100 / box.width, (event.clientY - box.top) * 100 / box.height, REACH[event.pointerType] ?? REACH.mouse);
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

function go(item) {
  if (!item) return;
  const [x, y] = place(item);
  if (x < 0 || y < 0 || x > frame.clientWidth || y > frame.clientHeight)
    frame.scrollBy({ left: x - frame.clientWidth / 2, top: y - frame.clientHeight / 2, behavior: "instant" });
  show(item, true);
}

const start = () => items.find((item) => item.query) || items.find((item) => item.rank === 1) || nearest(50, 50, Infinity);
const choose = (item) => { if (item && item.position !== null) trigger("select", { gallery: data.gallery, build: data.build, position: item.position }); };

const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = { Enter: () => choose(found), " ": () => choose(found), Escape: () => show(null), "+": () => zoomBy(1.6), "=": () => zoomBy(1.6), "-": () => zoomBy(1 / 1.6), 0: () => zoomBy(0) };
frame.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in ARROWS || event.key in KEYS)) return;
  event.preventDefault();
  if (event.key in KEYS) KEYS[event.key]();
  else go(found ? next(...ARROWS[event.key]) : start());
});
frame.addEventListener("focus", () => { if (frame.matches(":focus-visible") && !found && items.length) go(start()); });
frame.addEventListener("blur", () => show(null));
frame.addEventListener("scroll", () => { cover(); if (found) show(found); });
frame.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, y: event.clientY, moved: false, before: found }; });
frame.addEventListener("pointermove", (event) => {
  if (event.pointerType === "touch") return;  // which scrolls
  if (event.buttons & 1 && drag && (drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > DRAG)) {
    frame.scrollBy({ left: -event.movementX, top: -event.movementY, behavior: "instant" });
  } else show(under(event));
});
frame.addEventListener("click", (event) => {
  if (drag?.moved) return;
  const item = under(event);
  // A finger cannot hover: the first tap shows the image, the second opens it.
  if (event.pointerType === "touch" && item !== drag?.before) show(item, true);
  else choose(item);
});
frame.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch" && document.activeElement !== frame) show(null); });
frame.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  const box = frame.getBoundingClientRect();
  zoomBy(Math.exp(-event.deltaY / 200), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
for (const button of element.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoomBy(Number(button.dataset.zoom)));

function list() {
  const counts = data.labels.reduce((all, [, count], label) => { all[group({ label })] += count; return all; }, Array(OTHER + 1).fill(0));
  const rest = data.labels.filter(([name], label) => group({ label }) === OTHER).every(([name]) => name === "") ? TEXT.unlabelled : OTHER_LABELS;
  const entries = counts.flatMap((count, i) => {
    if (!count) return [];
    const button = make("button", `group-${i}`);
    button.type = "button";
    button.setAttribute("aria-pressed", String(only === i));
    button.append(make("i", i >= OTHER / 2 && i < OTHER ? "dot ring" : "dot"), `${i < OTHER ? data.labels[i][0] : rest} ${count.toLocaleString("en")}`);
    button.addEventListener("click", () => {
      only = only === i ? null : i;
      legend.querySelectorAll("button").forEach((each) => each.setAttribute("aria-pressed", String(each === button && only !== null)));
      show(null);
      cover();
    });
    return [button];
  });
  for (const [there, className, text] of [[data.query, "map-query", TEXT.query], [data.hits.length, "map-hit", TEXT.hits]]) {
    if (there) entries.push(make("span", ""));
    if (there) entries.at(-1).append(make("i", className), text);
  }
  legend.replaceChildren(...entries);
}

new ResizeObserver(cover).observe(frame);
watch("value", take);
take();
