() => document.addEventListener("keyup", (event) => {
  // gradio triggers `release` only for a pointer.
  const isOne = (kind) => event.target.matches?.(`#${ELEMENT} input[type=${kind}]`);
  if (isOne("range") && /^(Arrow|Page|Home|End)/.test(event.key) || isOne("number") && event.key === "Enter")
    event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
})
