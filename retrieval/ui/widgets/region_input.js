/* Draws the part of the query image to search with: by mouse, by finger (after the button), or with the arrow keys.
   The box belongs to one image, identified by its file, so that it never applies to another one. */
const KEYS = "Arrow keys move the box, Shift and arrow keys resize it, Escape removes it.";
const STEP = 0.05, SMALLEST = 0.04, START = [0.2, 0.2, 0.8, 0.8], SETTLED = 350;
const button = element.querySelector("button"), status = element.querySelector("[role=status]");
const layer = document.createElement("div"), box = document.createElement("div");
layer.className = "region-layer";
box.className = "region-box";
box.tabIndex = 0;
box.setAttribute("role", "group");
box.innerHTML = '<span class="region-corner"></span>';
layer.append(box);

let drawn = null, began = null, settling = 0, file = "";
const round = each => Math.round(each * 1000) / 1000;
const within = each => Math.min(1, Math.max(0, each));
const picture = () => document.querySelector("#query .image-frame img");
const fileOf = shown => shown && shown.src.includes("file=") ? shown.src.split("file=")[1] : "";

function place() {
  const shown = picture();
  if (fileOf(shown) !== file) {  // another image: discard what was begun on the last one
    file = fileOf(shown);
    began = null;
    clearTimeout(settling);
  }
  button.disabled = !file;
  if (!shown) { layer.remove(); return; }
  const frame = shown.parentElement;
  if (layer.parentElement !== frame) { frame.style.position = "relative"; frame.append(layer); }
  const scale = Math.min(shown.clientWidth / shown.naturalWidth, shown.clientHeight / shown.naturalHeight) || 0;
  const width = shown.naturalWidth * scale, height = shown.naturalHeight * scale;
  Object.assign(layer.style, {
    left: `${shown.offsetLeft + (shown.clientWidth - width) / 2}px`,
    top: `${shown.offsetTop + (shown.clientHeight - height) / 2}px`,
    width: `${width}px`, height: `${height}px`,
  });
}

function show() {
  const value = props.value, own = value && value.of && decodeURI(value.of) === decodeURI(file);
  if (!began) drawn = own ? value.box : null;
  layer.classList.toggle("drawn", Boolean(drawn));
  box.hidden = !drawn;
  button.textContent = drawn ? "Search the whole image" : "Search part of the image";
  button.setAttribute("aria-pressed", String(Boolean(drawn)));
  if (!drawn) { status.textContent = ""; return; }
  const [left, top, right, bottom] = drawn.map(each => `${Math.round(each * 100)} %`);
  const where = `Searched: ${left} to ${right} across, ${top} to ${bottom} down.`;
  status.textContent = where;
  box.setAttribute("aria-label", `${where} ${KEYS}`);
  Object.assign(box.style, {
    left: `${drawn[0] * 100}%`, top: `${drawn[1] * 100}%`,
    width: `${(drawn[2] - drawn[0]) * 100}%`, height: `${(drawn[3] - drawn[1]) * 100}%`,
  });
}

function search(next) {
  clearTimeout(settling);
  props.value = next ? { of: file, box: next.map(round) } : null;
  show();
  trigger("input");
}

/* The box follows a key or a finger at once; the search waits until it rests. */
function rest(next) {
  drawn = next;
  began = began || { rest: true };
  show();
  clearTimeout(settling);
  settling = setTimeout(() => { began = null; search(next); }, SETTLED);
}

function moved(by, [x, y]) {
  const [left, top, right, bottom] = by;
  const dx = Math.min(1 - right, Math.max(-left, x)), dy = Math.min(1 - bottom, Math.max(-top, y));
  return [left + dx, top + dy, right + dx, bottom + dy];
}

function resized([left, top, right, bottom], [x, y]) {
  return [left, top, Math.min(1, Math.max(left + SMALLEST, right + x)), Math.min(1, Math.max(top + SMALLEST, bottom + y))];
}

function at(event) {
  const area = layer.getBoundingClientRect();
  return [within((event.clientX - area.left) / area.width), within((event.clientY - area.top) / area.height)];
}

layer.addEventListener("pointerdown", event => {
  if (event.button || (event.pointerType === "touch" && !drawn)) return;  // a finger scrolls until there is a box
  event.preventDefault();
  layer.setPointerCapture(event.pointerId);
  const how = event.target.closest(".region-corner") ? "resize" : event.target === box ? "move" : "draw";
  began = { how, from: at(event), box: drawn };
});
layer.addEventListener("pointermove", event => {
  if (!began || !began.how) return;
  const [x, y] = at(event), [a, b] = began.from;
  if (began.how === "draw") drawn = [Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y)];
  else drawn = (began.how === "move" ? moved : resized)(began.box, [x - a, y - b]);
  show();
});
layer.addEventListener("pointerup", () => {
  if (!began || !began.how) return;
  const before = began.box;
  began = null;
  const small = !drawn || drawn[2] - drawn[0] < SMALLEST || drawn[3] - drawn[1] < SMALLEST;
  if (small && !before) { drawn = null; show(); }  // a click, not a box
  else if (small) { drawn = before; show(); }
  else search(drawn);
});
layer.addEventListener("pointercancel", () => { if (began) { drawn = began.box || null; began = null; show(); } });
box.addEventListener("keydown", event => {
  const way = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
  if (way) { event.preventDefault(); rest((event.shiftKey ? resized : moved)(drawn, way)); }
  else if (["Escape", "Delete", "Backspace"].includes(event.key)) { event.preventDefault(); search(null); button.focus(); }
});
button.addEventListener("click", () => {
  search(drawn ? null : START);
  if (drawn) box.focus();
});

const again = () => { place(); show(); };
watch("value", again);

/* This component may be mounted before the image is. */
function follow() {
  const query = document.getElementById("query");
  if (!query) return false;
  new MutationObserver(again).observe(query,
    { childList: true, subtree: true, attributes: true, attributeFilter: ["src"] });
  new ResizeObserver(place).observe(query);
  query.addEventListener("load", again, true);
  again();
  return true;
}
if (!follow()) {
  const arrival = new MutationObserver(() => { if (follow()) arrival.disconnect(); });
  arrival.observe(document.body, { childList: true, subtree: true });
}
