() => {
  /* A picture in a gallery is called by its caption and not "Thumbnail 1 of 12" (which also hides the caption from those
     who say what to click), the sign of an empty gallery has a role that may have a name, and new results are said aloud. */
  document.documentElement.lang = "en";  // gradio names the visitor's own language; the words of the page are English
  const said = document.createElement("div");
  Object.assign(said, { id: "announcement", role: "status" });
  document.querySelector("main").append(said);
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
    const text = SAID.replace("{count}", found.length).replace("{first}", () => found[0]?.textContent.trim());
    set(said, "textContent", found.length ? text : "");
  };
  mend();
  new MutationObserver(mend).observe(document.querySelector("main"), {
    subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["alt", "aria-label"],
  });
}
