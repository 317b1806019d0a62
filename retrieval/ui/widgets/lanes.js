// Draws a lane of results for each feature type. `props.value` is JSON; names and labels in it come from datasets of
// strangers, so they only ever become text, never HTML.
const box = element.querySelector(".lanes"), status = element.querySelector("[role=status]");
const note = element.querySelector(".lanes-note"), bar = element.querySelector(".lanes-bar");
const legend = element.querySelector(".lanes-legend");
const root = window.gradio_config?.root ?? "";

function make(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

function card(hit, lane, number) {
  const made = make("button", "hit");
  made.type = "button";
  const picture = make("img");
  Object.assign(picture, { src: `${root}${hit.src}`, alt: hit.name, loading: "eager", decoding: "async", width: 160, height: 160 });
  made.append(picture);
  if (hit.correct !== null) {
    made.classList.add(hit.correct ? "correct" : "wrong");
    const mark = make("span", "mark", hit.correct ? "✓" : "✗");
    mark.ariaHidden = "true";
    made.append(mark, make("span", "aloud", hit.correct ? "correct: " : "another class: "));
  }
  const name = make("span", "name", `${number + 1}. ${hit.name}`), note = make("span", "note", hit.note || hit.label);
  made.append(name, make("span", "line", note, make("span", "score", hit.score)));
  made.title = [hit.name, hit.label].filter(Boolean).join(", ");  // both may be cut off below the image
  const item = { gallery: lane.gallery, build: lane.build, position: hit.position };
  made.dataset.place = `Result ${number + 1} by ${lane.title}`;  // for the viewer
  made.addEventListener("click", () => trigger("select", { ...item, metric: lane.metric }));
  return make("div", "card", made, ...judgements(made, hit.name, item));
}

// Buttons for the mouse and the finger. On the keyboard, + and - on the result itself do the same, so that Tab stays short.
function judgements(result, name, item) {
  const judge = (more) => trigger("like", { ...item, more });
  result.setAttribute("aria-keyshortcuts", "Plus -");
  result.addEventListener("keydown", (event) => { if (["+", "-"].includes(event.key)) judge(event.key === "+"); });
  return [[true, "+", "More like this"], [false, "−", "Less like this"]].map(([more, sign, title]) => {
    const made = make("button", more ? "judge more" : "judge less", sign);
    Object.assign(made, { type: "button", tabIndex: -1, title, ariaLabel: `${title}: ${name}` });
    made.addEventListener("click", () => judge(more));
    return made;
  });
}

function histogram(scores) {
  const space = "http://www.w3.org/2000/svg", drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", "0 0 320 28");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", scores.about);
  const bar = (className, x, width, height) => {
    const made = document.createElementNS(space, "rect");
    for (const [name, value] of Object.entries({ class: className, x, y: 28 - height, width, height })) made.setAttribute(name, value);
    drawing.append(made);
  };
  const step = 320 / scores.heights.length;
  scores.heights.forEach((height, i) => bar("all", i * step, step - 1, height && Math.max(1, height * 26)));
  for (const mark of scores.marks) bar("result", mark * 318, 2, 28);
  return make("figure", "scores", drawing, make("figcaption", "", scores.about));
}

function drawn(lane) {
  const made = make("section", "lane");
  made.ariaLabel = lane.title;
  made.dataset.features = lane.features;
  const names = make("div", "names", make("h2", "", lane.title), make("p", "", lane.about));
  const head = make("header", "", names);
  made.append(head);
  if (lane.message) {
    made.append(make("p", "message", lane.message));
    return made;
  }
  if (lane.correct !== null) {
    const dots = make("span", "dots", ...lane.hits.map((hit) => make("i", hit.correct ? "correct" : "wrong")));
    dots.ariaHidden = "true";
    head.append(make("p", "count", make("b", "", String(lane.correct)), ` of ${lane.hits.length} correct`, dots));
  }
  for (const each of lane.notes) made.append(make("p", "verdict poor", each));
  if (lane.verdict) made.append(make("p", `verdict ${lane.convincing ? "good" : "poor"}`, lane.verdict));
  made.append(make("div", "hits", ...lane.hits.map((hit, number) => card(hit, lane, number))));
  if (lane.scores) made.append(histogram(lane.scores));
  const details = make("details", "", make("summary", "", "Scores and timings"));
  details.append(...lane.details.map((each) => make("p", "", each)));
  made.append(details);
  return made;
}

function scrollTo(target) {
  target?.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function leading(target, className, ...content) {
  const made = make("button", className, ...content);
  made.type = "button";
  made.addEventListener("click", () => scrollTo(target));
  return made;
}

// The bar that stays in sight on phones: back to the query, and to each lane.
function barOf(lanes) {
  const panel = element.closest("#results") && document.querySelector("#query"), shown = panel?.querySelector("img");
  const image = make("img");
  Object.assign(image, { src: shown?.src ?? "", alt: "Back to the query image" });
  const first = panel ? [shown ? leading(panel, "query", image) : leading(panel, "", "Query")] : [];
  return [...first, ...lanes.map((lane, number) => {
    const count = lane.message || lane.correct === null ? [] : [make("b", "", `${lane.correct} of ${lane.hits.length}`)];
    return leading(box.children[number], "", lane.title, ...count);
  })];
}

function summary(lane) {
  if (lane.message) return `${lane.title}: ${lane.message}`;
  const closest = lane.hits.length ? `Closest: ${lane.hits[0].name}.` : "";
  const count = lane.correct === null ? `${lane.hits.length} results` : `${lane.correct} of ${lane.hits.length} correct`;
  return `${lane.title}: ${count}. ${closest}`;
}

function draw() {
  const { note: text, lanes } = props.value ? JSON.parse(props.value) : { note: "", lanes: [] };
  const cards = [...box.querySelectorAll(".hit")], focused = cards.indexOf(document.activeElement);
  const open = new Set([...box.querySelectorAll(".lane:has(details[open])")].map((each) => each.dataset.features));
  box.replaceChildren(...lanes.map(drawn));
  bar.replaceChildren(...(lanes.length ? barOf(lanes) : []));
  for (const lane of box.children) if (open.has(lane.dataset.features)) lane.querySelector("details")?.setAttribute("open", "");
  note.textContent = text;
  note.hidden = !text;
  legend.hidden = !box.querySelector(".count");
  box.querySelectorAll(".hit")[focused]?.focus({ preventScroll: true });
  status.textContent = lanes.length ? lanes.map(summary).join(" ") : text;
}

box.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || !event.target.classList.contains("hit")) return;
  const cards = [...box.querySelectorAll(".hit")];
  cards[cards.indexOf(event.target) + step]?.focus();
  event.preventDefault();
});
watch("value", draw);
draw();
