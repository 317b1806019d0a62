// Shows the images added to the query as chips. A chip's text turns its sign around, and its cross removes it.
const list = element.querySelector("ul"), clear = element.querySelector(".clear");
const root = window.gradio_config?.root ?? "";
const address = (file) => `${root}FILES${encodeURI(file).replace(/[?#]/g, encodeURIComponent)}`;

function make(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

function button(className, name, ...content) {
  const made = make("button", className, ...content);
  made.type = "button";
  made.ariaLabel = made.title = name;
  return made;
}

function change(images) {
  props.value = { ...props.value, images };  // gradio triggers `change`
  draw();
}

function chip(image, place, images) {
  const picture = make("img");
  Object.assign(picture, { src: address(image.file), alt: image.name, width: 28, height: 28 });
  const text = `${image.more ? "+" : "−"} ${image.name}`;
  const turned = image.more ? "Avoid images like it instead" : "Find images like it instead";
  const sign = button("sign", `${text}. ${turned}`, make("b", "", text[0]), text.slice(1));
  sign.addEventListener("click", () => change(images.with(place, { ...image, more: !image.more })));
  const remove = button("remove", `Remove ${image.name}`, "×");
  remove.addEventListener("click", () => change(images.toSpliced(place, 1)));
  return make("li", image.more ? "more" : "less", picture, sign, remove);
}

function draw() {
  const images = props.value?.images ?? [], buttons = [...list.querySelectorAll("button")];
  const focused = buttons.indexOf(document.activeElement);
  list.replaceChildren(...images.map(chip));
  clear.hidden = images.length < 2;
  const now = list.querySelectorAll("button");
  if (focused >= 0) (now[Math.min(focused, now.length - 1)] ?? document.querySelector("#text textarea"))?.focus();
}

clear.addEventListener("click", () => change([]));
watch("value", draw);
draw();
