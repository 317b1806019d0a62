/* Keeps the address in step with the page, so that it can be saved, shared and opened again, and so that Back and Forward
   lead through the searches and tabs of a visitor. */
const link = element.querySelector("a"), status = element.querySelector("[role=status]");
const KNOWN = ["tab", ...NAMES, ...Object.values(KEPT).flatMap(Object.keys)];
// What the address says: the search, the open tab, and the values of tabs. An uploaded image is only in the history of
// this browser, never in the address.
let search, tab, image, later, restoring;
const kept = {};
// The search that must only correct the address: the first one, or that of going back. Older ones are ignored meanwhile.
let awaited = { until: Infinity };

const tabs = () => [...document.querySelectorAll("[role=tab]")];
const named = (each) => each.textContent.trim().toLowerCase();

function read() {
  const given = new URLSearchParams(location.search);
  search = [...given].filter(([name]) => NAMES.includes(name));
  tab = given.get("tab") ?? (given.has("lesson") ? "lessons" : "search");
  kept[tab] = Object.fromEntries(Object.entries(KEPT[tab] ?? {}).map(([name, usual]) => [name, given.get(name) ?? usual]));
  image = history.state?.upload ?? "";
}

function openTab() {
  const chosen = tabs().find((each) => named(each) === tab);
  if (!chosen) tab = "search";
  else if (chosen.ariaSelected !== "true") {
    chosen.click();
    if (innerWidth < 768) chosen.scrollIntoView();
  }
}

// What tells two states of the page apart.
function gist(address, of, without = []) {
  const values = [...new URL(address).searchParams].filter(([name]) => KNOWN.includes(name) && !without.includes(name));
  return JSON.stringify([of ?? "", ...values.sort()]);
}

function write(corrects) {
  const address = new URL(location.href);
  for (const name of KNOWN) address.searchParams.delete(name);
  const own = Object.entries(kept[tab] ?? {}).filter(([name, value]) => String(value) !== String(KEPT[tab][name]));
  for (const [name, value] of [...search, ...(tab === "search" ? [] : [["tab", tab]]), ...own]) address.searchParams.append(name, value);
  const changed = (...without) => gist(location, history.state?.upload, ...without) !== gist(address, image, ...without);
  if (changed()) {
    // Values that are dragged would fill the history.
    const replaces = corrects || !changed(DRAGGED);
    history[replaces ? "replaceState" : "pushState"]({ ...history.state, upload: image }, "", address);
  }
  // Names with two underscores are between the browser and its host, such as a theme or a visitor's signature.
  for (const name of [...address.searchParams.keys()]) if (name.startsWith("__")) address.searchParams.delete(name);
  link.href = address.href;
}

function follow() {
  const { address, own, visit } = props.value;
  status.textContent = own ? "The link does not include your uploaded image." : "";
  element.classList.toggle("there", Boolean(address));
  if (awaited?.visit && awaited.visit !== visit && performance.now() < awaited.until) return;
  search = [...new URLSearchParams(address)];
  image = props.value.upload;
  write(awaited);
  awaited = null;
}

document.addEventListener("click", (event) => {
  const chosen = event.target.closest?.("[role=tab]");
  if (!chosen) return;
  tab = named(chosen);
  write();
});
document.addEventListener("kept", ({ detail }) => {
  kept[detail.tab] = Object.fromEntries(Object.keys(KEPT[detail.tab]).map((name, place) => [name, detail.values[place]]));
  clearTimeout(later);
  later = setTimeout(write, 300);  // browsers limit how often an address may change
});
addEventListener("popstate", () => {
  const state = () => JSON.stringify([search, image, kept[tab]]), before = state();
  read();
  openTab();
  if (state() === before) return;
  const visit = Date.now();
  awaited = { visit, until: performance.now() + 10000 };
  clearTimeout(restoring);  // of several steps in a row, only the last one is shown: requests can overtake each other
  restoring = setTimeout(() => trigger("submit", { visit, upload: image }), 100);
});

for (const save of element.querySelectorAll("[data-save]")) {
  save.addEventListener("click", () => trigger("download", { kind: save.dataset.save }));
}
for (const copy of element.querySelectorAll("button:not([data-save])")) {
  copy.addEventListener("click", async () => {
    const { copy: kind } = copy.dataset, page = new URL(window.gradio_config?.root || location.origin).href;
    const text = kind ? props.value[kind].replace(ADDRESS, page) : link.href;
    try {
      await navigator.clipboard.writeText(text);
      status.textContent = "Copied.";
    } catch {  // a page without https may not write to the clipboard
      status.textContent = text;
    }
  });
}
watch("value", follow);
read();
setTimeout(openTab);
