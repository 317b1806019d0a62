() => {
  /* Names each image in a gallery by its caption instead of "Thumbnail 1 of 12" (voice control needs the visible text),
     and gives the icon of an empty gallery a role that may have a name. */
  document.documentElement.lang = "en";  // gradio sets the visitor's language, but the page is in English
  const set = (element, name, value) => element[name] === value || (element[name] = value);
  const named = new WeakMap();
  const mend = () => {
    for (const item of document.querySelectorAll(".thumbnail-item")) {
      const name = item.querySelector("img")?.alt;
      if (name) set(item, "ariaLabel", name);
      const caption = item.querySelector(".caption-label");
      if (caption) set(caption, "ariaHidden", "true");
    }
    for (const drop of document.querySelectorAll("button.upload-container")) {
      if (named.get(drop) === drop.textContent) continue;  // innerText, without hidden parts, needs the page's layout
      named.set(drop, drop.textContent);
      const text = drop.innerText.trim().replace(/\s+/g, " ");
      if (text) set(drop, "ariaLabel", text);
    }
    const file = document.querySelector("#choose input[type=file]");
    if (file) set(file, "accept", "image/*");  // what phones and file dialogs offer first
    for (const sign of document.querySelectorAll(".empty[aria-label]")) set(sign, "role", "img");
  };
  // Once per frame: the page changes hundreds of times while it is opened.
  let planned = false;
  const plan = () => {
    if (!planned) requestAnimationFrame(() => { planned = false; mend(); });
    planned = true;
  };
  plan();
  new MutationObserver(plan).observe(document.querySelector("main"), {
    subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["alt", "aria-label"],
  });
}
