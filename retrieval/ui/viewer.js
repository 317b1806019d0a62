// Shows one result in a dialog, which the browser closes on Escape, and which keeps the focus and gives it back.
// `props.value` is JSON; texts in it come from datasets of strangers, so they only ever become text, never HTML.
const dialog = element.querySelector("dialog"), content = element.querySelector(".content");
const status = element.querySelector("[role=status]");
const root = window.gradio_config?.root ?? "";
let chosen = null;  // the result that was clicked last, whose neighbours the arrow keys open

document.addEventListener("click", (event) => {
  const hit = event.target.closest?.(".hits :is(.hit, .thumbnail-item)");
  if (hit || event.target.closest?.("#map")) chosen = hit;
}, true);

function make(tag, className, ...parts) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...parts);
  return made;
}

function figure(src, alt, caption) {
  const image = make("img");
  Object.assign(image, { src, alt });
  return make("figure", "", image, make("figcaption", "", caption));
}

function button(className, text, act) {
  const made = make("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

function neighbour(step) {
  const all = chosen?.isConnected ? [...chosen.closest(".hits").querySelectorAll(".hit, .thumbnail-item")] : [];
  return all[all.indexOf(chosen) + step];
}

function pair(item) {
  const maps = item.why, query = document.querySelector("#query img");
  const made = make("div", maps ? "pair explained" : "pair");
  if (maps?.query || (query && !maps)) made.append(figure(maps?.query || query.src, "The query image", "Query image"));
  made.append(figure(maps ? maps.result : item.large || `${root}${item.src}`, item.title, maps ? "Result" : `Result (${item.about})`));
  return made;
}

function actions(item) {
  const place = { gallery: item.gallery, build: item.build, position: item.position };
  const made = make("div", "actions");
  for (const [name, text] of item.actions) {
    made.append(button(name === "search" ? "main" : "", text, () => { trigger("submit", { ...place, action: name }); dialog.close(); }));
  }
  const link = make("a", "", "Download");
  link.href = item.large || `${root}${item.src}`;
  link.download = `${(item.id.split("/").pop() || "image").replace(/\.\w+$/, "").replace(/[^\w.-]+/g, "-")}.jpg`;
  made.append(link);
  for (const [text, step] of [["← Previous", -1], ["Next →", 1]]) {
    if (chosen?.isConnected) {
      const turn = button(step < 0 ? "previous" : "next", text, () => neighbour(step)?.click());
      turn.disabled = !neighbour(step);
      made.append(turn);
    }
  }
  return made;
}

function reasons(item) {
  const place = { gallery: item.gallery, build: item.build, position: item.position, metric: item.metric };
  const made = make("div", "actions why", make("span", "label", "Why this result?"));
  for (const [features, title] of item.explained) {
    const on = item.why?.features === features;
    const made_button = button("", title, () => {
      if (on) return trigger("select", { ...place });
      status.textContent = "Computing ...";
      for (const each of made.querySelectorAll("button")) each.disabled = true;
      trigger("expand", { ...place, features });
    });
    made_button.setAttribute("aria-pressed", String(on));
    made_button.dataset.features = features;
    made.append(made_button);
  }
  return made;
}

function table(item) {
  const head = make("tr", "", make("th", "", "Score (rank)"), ...item.metrics.map((each) => make("th", "", each)));
  const rows = item.scores.map(([title, ...cells]) => make("tr", "", make("th", "", title),
    ...cells.map(([score, rank]) => make("td", "", score, make("span", "rank", rank ? ` (${rank})` : "")))));
  const made = make("table", "", make("thead", "", head), make("tbody", "", ...rows));
  const area = make("div", "scroll", made);
  Object.assign(area, { tabIndex: 0, role: "region", ariaLabel: "Scores and ranks" });  // it scrolls on phones
  return area;
}

function draw() {
  const item = props.value ? JSON.parse(props.value) : null;
  if (!item) return dialog.close();
  if (!item.opens && !dialog.open) return;  // the visitor has closed it in the meantime
  if (item.message) {
    content.replaceChildren(make("p", "", item.message));
  } else {
    const focused = [...content.querySelectorAll("button")].findIndex((each) => each === document.activeElement);
    const place = chosen?.isConnected ? [chosen.dataset.place] : [];
    const lines = [...place, ...item.lines].filter(Boolean).map((each) => make("p", "", each));
    content.replaceChildren(make("h2", "", item.title), ...lines, pair(item), ...(item.why ? [make("p", "", item.why.about)] : []),
      actions(item), reasons(item), table(item));
    content.querySelectorAll("button")[focused]?.focus({ preventScroll: true });
  }
  status.textContent = item.why ? item.why.about : item.title || item.message;
  if (!dialog.open) dialog.showModal();
}

dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });  // beside the content
element.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && !event.ctrlKey && !event.metaKey && !event.altKey) neighbour(step)?.click();
});
watch("value", draw);
