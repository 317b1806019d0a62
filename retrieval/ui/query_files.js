() => {
  /* Lets the server say what is wrong with a file that is no image, since gradio would show a message of its own, and
     hides the sign of a broken image. */
  const upload = () => document.querySelector("#choose input[type=file]");
  const hand_over = (event, files) => {
    if (!event.target.closest?.("#query") || !files?.length || files[0].type.startsWith("image/")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    upload().files = files;
    upload().dispatchEvent(new Event("change", { bubbles: true }));
  };
  document.addEventListener("drop", (event) => hand_over(event, event.dataTransfer?.files), true);
  document.addEventListener("change", (event) => hand_over(event, event.target.files), true);
  for (const kind of ["load", "error"]) {
    document.addEventListener(kind, (event) => {
      if (event.target.matches?.("#query img")) event.target.classList.toggle("broken", kind === "error");
    }, true);
  }
}
