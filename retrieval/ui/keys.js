() => {
  /* Keys for the whole page: / goes to the text field, ? shows the keys. */
  const KEYS = [["/", "go to the text field"], ["← →", "move through the results"], ["Enter", "open a result"],
    ["← → in the viewer", "previous or next result"], ["Esc", "close the viewer or this list"], ["?", "show these keys"]];
  const dialog = document.createElement("dialog");
  dialog.id = "keys";
  dialog.ariaLabel = "Keys";
  const list = document.createElement("dl"), close = document.createElement("button");
  for (const [key, text] of KEYS) {
    for (const [tag, content] of [["dt", key], ["dd", text]]) {
      const made = document.createElement(tag);
      made.textContent = content;
      list.append(made);
    }
  }
  close.type = "button";
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  dialog.append(list, close);
  document.querySelector(".gradio-container").append(dialog);
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest("textarea, [contenteditable=true], input:not([type=radio], [type=checkbox], [type=range])");
    if (writing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "/") document.querySelector("#text :is(textarea, input)").focus();
    else if (event.key === "?") dialog.showModal();
    else return;
    event.preventDefault();
  });
}
