() => {
  /* Names each image in a gallery by its caption instead of "Thumbnail 1 of 12" (voice control needs the visible text),
     gives the icon of an empty gallery a role that may have a name, and announces new results. */
  document.documentElement.lang = "en";  // gradio sets the visitor's language, but the page is in English
  const announcement = document.createElement("div");
  Object.assign(announcement, { id: "announcement", role: "status" });
  document.querySelector("main").append(announcement);
  const set = (element, name, value) => element[name] === value || (element[name] = value);
  const mend = () => {
    for (const item of document.querySelectorAll(".thumbnail-item")) {
      const name = item.querySelector("img")?.alt;
      if (name) set(item, "ariaLabel", name);
      const caption = item.querySelector(".caption-label");
      if (caption) set(caption, "ariaHidden", "true");
    }
    for (const drop of document.querySelectorAll("button.upload-container")) {
      const text = drop.innerText.trim().replace(/\s+/g, " ");
      if (text) set(drop, "ariaLabel", text);
    }
    for (const sign of document.querySelectorAll(".empty[aria-label]")) set(sign, "role", "img");
    const found = document.querySelectorAll("#results .caption-label");
    const text = `${found.length} images found. Closest: ${found[0]?.textContent.trim()}`;
    set(announcement, "textContent", found.length ? text : "");
  };
  mend();
  new MutationObserver(mend).observe(document.querySelector("main"), {
    subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["alt", "aria-label"],
  });
}
